"""Trainings that are killed (SIGKILL) end as a training that nobody killed, to the last bit."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow_beyond(1)

ROOT = pathlib.Path(__file__).parents[2]


def kill(backend, *methods, kills):
    """Kills trainings that often in all, and returns what the script says."""
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "reliability.py"), f"--kills={kills}"),
            *("--parts=training", *(f"--methods={method}" for method in methods)),
        ],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("method", "kills"), [("gdnsq", 2), ("lsq", 1), ("pege", 1)])
def test_kills_change_nothing(method, kills):
    assert f"training, {method}, tensorflow', kills={kills}" in kill(
        "tensorflow", method, kills=kills
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX")
def test_kills_change_nothing_on_jax():
    assert "training, gdnsq, jax', kills=1" in kill("jax", "gdnsq", kills=1)
