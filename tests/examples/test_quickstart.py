"""The quickstart, with few epochs, leaves everything that it promises."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_quickstart_leaves_files_reports_and_picture(tmp_path):
    folder = tmp_path / "output"
    result = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples" / "quickstart.py"),
            f"--output_dir={folder}",
            "--float_epochs=3",
            "--lsq_epochs=1",
            "--gdnsq_epochs=10",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "130"},
    )
    assert result.returncode == 0, result.stderr
    names = ("gdnsq_w2a2", "lsq_w8a8")
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"{names[0]}.report.json", f"{names[0]}.tflite", "grids.png"),
        *(f"{names[1]}.report.json", f"{names[1]}.tflite"),
    ]
    for name in names:
        report = json.loads((folder / f"{name}.report.json").read_text())
        assert [check["differing"] for check in report["verifications"]] == [0, 0]
    table = [line for line in result.stdout.splitlines() if line.startswith("│")][-3:]
    assert [line.split()[1] for line in table] == ["float", "LSQ", "GDNSQ"]
    assert all(" 0 of " in line for line in table[1:])
