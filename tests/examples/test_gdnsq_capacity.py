"""The picture of GDNSQ, on a short run, and everything else that the example promises."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gdnsq_capacity.py"


def run(*flags):
    return subprocess.run([sys.executable, EXAMPLE, *flags], capture_output=True, text=True)


@pytest.mark.slow
def test_the_example_leaves_file_report_and_picture(tmp_path):
    folder = tmp_path / "output"
    done = run(f"--output_dir={folder}", "--bits=4", "--float_epochs=4", "--qat_epochs=9")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "capacity.png",
        "model.tflite",
        "report.json",
    ]
    report = json.loads((folder / "report.json").read_text())
    assert [check["differing"] for check in report["verifications"]] == [0, 0]
    for row in ("float model", "GDNSQ, W4A4", "its file in LiteRT", "targets are met"):
        assert row in done.stdout


def test_the_picture_shows_a_run_that_missed_its_targets():
    """Widths, capacities and the penalty of two quantizers over two epochs, drawn as they are."""
    code = """
import types
import gdnsq_capacity as example

learned = types.SimpleNamespace(history={
    "batches": [0, 8, 16, 32],
    "tensors": {
        "a/weights": {"max_bits": [10.0, 8.0, 4.0, 3.0]},
        "b/activations": {"max_bits": [10.0, 9.0, 9.0, 8.0]},
    },
})
tensors = {
    "a/weights": {"kind": "weights", "target_bits": 2, "bits_per_value": [5.0, 2.5]},
    "b/activations": {"kind": "activations", "target_bits": 8, "bits_per_value": [8.5, 7.5]},
}
monitor = types.SimpleNamespace(history={"epochs": [0, 1], "tensors": tensors})
logs = {"loss": [1.5, 1.25], "task_loss": [1.0, 1.5], "val_accuracy": [0.5, 0.75]}
figure = example.draw(learned, monitor, logs, 98.0, None)
widths, capacities, accuracy, penalty = figure.axes
print([list(map(float, line.get_ydata())) for line in widths.lines[:2]])
print(sorted(int(line.get_ydata()[0]) for line in widths.lines if line.get_linestyle() == "--"))
print([list(map(float, line.get_ydata())) for line in capacities.lines])
print(accuracy.lines[0].get_xdata().tolist(), accuracy.lines[0].get_ydata().tolist())
print(sorted({float(y) for y in penalty.collections[0].get_paths()[0].vertices[:, 1]}))
print([text.get_text() for text in widths.texts])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{EXAMPLE.parent}"},
    )
    assert done.stdout.splitlines() == [
        "[[10.0, 8.0, 4.0, 3.0], [10.0, 9.0, 9.0, 8.0]]",
        "[2, 8]",
        "[[5.0, 2.5], [8.5, 7.5]]",
        "[16.0, 32.0] [50.0, 75.0]",
        "[0.0, 0.5]",
        "['target: 2 bits', 'target: 8 bits']",
    ], done.stderr
