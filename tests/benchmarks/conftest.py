"""Tests import modules of benchmarks/. The tiny study is a script, which the queue starts."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))

collect_ignore = ["made_up_study.py", "tiny_study.py"]
