"""The errors of this package."""

FAR_SCALES = (
    "Scales of a trained model are so far apart if its training diverged: load an earlier state, "
    "and train on with keras_qat.callbacks.DivergenceMonitor(). In a graph of your own, give the "
    "output a scale nearer to the inputs'."
)


class ExportError(ValueError):
    """A graph that cannot be written for the target, or a file that misses a stated limit."""


class VerificationError(ExportError):
    """A runtime, or the written file, disagrees with the integer graph."""
