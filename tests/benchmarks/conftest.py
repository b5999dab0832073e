"""The tiny study is a script: it runs in the processes that the queue starts."""

collect_ignore = ["tiny_study.py"]
