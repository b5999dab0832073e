"""The example for microcontrollers, on made-up motion, leaves everything that it promises."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
WINDOWS = 24
PEOPLE = {"train": range(1, 9), "test": range(9, 11)}


def write_motion(folder: pathlib.Path) -> None:
    """Waves whose pace is the activity, in the files of the published data set."""
    generator = np.random.default_rng(0)
    time = np.arange(128) / 50.0
    for part, people in PEOPLE.items():
        labels = np.tile(np.arange(6), WINDOWS // 6 * len(people))
        inner = folder / part / "Inertial Signals"
        inner.mkdir(parents=True)
        for kind in ("total_acc", "body_gyro"):
            for axis in "xyz":
                phase = generator.uniform(0, 6, (labels.size, 1))
                signal = np.sin(2 * np.pi * (1 + labels[:, None]) * time + phase)
                np.savetxt(inner / f"{kind}_{axis}_{part}.txt", signal, fmt="%.5e")
        np.savetxt(folder / part / f"y_{part}.txt", labels + 1, fmt="%d")
        np.savetxt(folder / part / f"subject_{part}.txt", np.repeat(people, WINDOWS), fmt="%d")


def run_example(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "activity_on_mcu.py"), *flags]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_example_leaves_firmware_and_a_picture(tmp_path):
    write_motion(tmp_path / "data")
    output = tmp_path / "output"
    result = run_example(
        f"--data_dir={tmp_path / 'data'}",
        f"--output_dir={output}",
        "--float_epochs=4",
        "--qat_epochs=4",
    )
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in output.iterdir()) == ["firmware", "memory.png"]
    assert (output / "firmware" / "activity_main.cc").is_file()
    assert re.search(r"Proven +0 of [\d,]+ elements differ in TensorFlow Lite Micro", result.stdout)
    assert "What it will take, known before training" in result.stdout


def test_missing_data_says_where_to_get_it(tmp_path):
    result = run_example(f"--data_dir={tmp_path / 'nowhere'}")
    assert result.returncode != 0
    assert "is not the unpacked UCI HAR data set" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
