"""The module that TFMOT runs has no doctests, and importing it needs Keras 2."""

collect_ignore = ["trained_by_tfmot.py"]
