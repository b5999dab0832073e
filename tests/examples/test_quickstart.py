"""The quickstart, with one epoch each, leaves everything that it promises."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_quickstart_leaves_file_report_and_picture(tmp_path):
    folder = tmp_path / "output"
    result = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples" / "quickstart.py"),
            f"--output_dir={folder}",
            "--float_epochs=1",
            "--qat_epochs=1",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "grids.png",
        "model.tflite",
        "report.json",
    ]
    report = json.loads((folder / "report.json").read_text())
    assert [check["differing"] for check in report["verifications"]] == [0, 0]
    for row in ("float model", "QAT model", "integer reference", "LiteRT (XNNPACK)"):
        assert row in result.stdout
