"""The picture of PEGE, on a short run, and everything else that the example promises."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "pege_curriculum.py"


@pytest.mark.slow
def test_the_example_leaves_file_report_and_picture(tmp_path):
    folder = tmp_path / "output"
    flags = (f"--output_dir={folder}", "--float_epochs=4", "--qat_epochs=4")
    done = subprocess.run([sys.executable, EXAMPLE, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "curriculum.png",
        "model.tflite",
        "report.json",
    ]
    report = json.loads((folder / "report.json").read_text())
    assert [check["differing"] for check in report["verifications"]] == [0, 0]
    for row in ("float model", "PEGE, W2A2", "its file in LiteRT"):
        assert row in done.stdout


def test_the_picture_shows_share_errors_and_accuracies():
    """The numbers of a run of two epochs, drawn as they are."""
    code = """
import pege_curriculum as example

errors = {"a/weights": [0.01, 0.0025], "b/activations": [0.04, 0.09]}
logs = {"loss": [1.0, 0.5], "accuracy": [0.5, 0.75], "val_accuracy": [0.25, 0.5]}
figure = example.draw([0.0, 0.5, 1.0, 1.0], errors, logs, 98.0)
share, error, accuracy = figure.axes
print(share.lines[0].get_ydata().tolist(), list(share.lines[1].get_xdata()))
print([line.get_ydata().round(9).tolist() for line in error.lines[:2]])
print([line.get_ydata().tolist() for line in accuracy.lines[:2]])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{EXAMPLE.parent}"},
    )
    assert done.stdout.splitlines() == [
        "[0.0, 50.0, 100.0, 100.0] [2, 2]",
        "[[10.0, 5.0], [20.0, 30.0]]",
        "[[50.0, 75.0], [25.0, 50.0]]",
    ], done.stderr
