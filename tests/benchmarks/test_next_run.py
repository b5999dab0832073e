"""Runs of a study wait for the float model from which they start, and for nothing else."""

import pathlib
import subprocess
import sys

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
NAMES = """
from run_queue import Entry, next_ready

FLOAT = Entry("vgg_small", "float", 32, 0)
LSQ = Entry("vgg_small", "lsq", 2, 0)
OTHER = Entry("resnet20", "gdnsq", 2, 0)
FLOAT_OF_OTHER = Entry("resnet20_float", "float", 32, 0)
"""


def holds(*statements):
    """Asserts in a process of its own: the queue's flags have names that studies use as well."""
    code = NAMES + "\n".join(f"assert {each}, {each!r}" for each in statements)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_runs_begin_in_their_order():
    holds(
        "next_ready([FLOAT, LSQ, OTHER], []) == FLOAT",
        "next_ready([LSQ, OTHER], []) == LSQ",
        "next_ready([OTHER], [LSQ]) == OTHER",
        "next_ready([], []) is None",
    )


def test_a_run_waits_while_its_float_model_trains_and_others_go_first():
    holds(
        "next_ready([LSQ, OTHER], [FLOAT]) == OTHER",
        "next_ready([LSQ], [FLOAT]) is None",
        "next_ready([LSQ], [FLOAT_OF_OTHER]) == LSQ",
    )
