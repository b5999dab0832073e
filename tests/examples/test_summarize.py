"""The table of runs: every run, and mean and spread over seeds."""

import json
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "summarize.py"


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_rows_and_means(tmp_path):
    for seed, value in enumerate((80.0, 82.0)):
        kinds = dict.fromkeys(("float", "qat", "integer", "tflite"), value)
        run = {f"{kind}_accuracy": value for kind, value in kinds.items()}
        run |= {"method": "lsq", "weight_bits": 4, "activation_bits": 4, "seed": seed}
        run |= {"argmax_agreement": 99.0 + seed, "file_bytes": 1234}
        (tmp_path / f"w4a4_lsq_seed{seed}.json").write_text(json.dumps(run))
    (tmp_path / "w4a4_lsq_seed0.report.json").write_text("{}")  # an export's report is no run
    lines = run_script(tmp_path).stdout.splitlines()
    assert lines[2] == "| lsq | W4A4 | 0 | 80.00 | 80.00 | 80.00 | 80.00 | 99.00 % | 1,234 |"
    assert "**81.00** ± 1.41" in lines[4]
    assert "at least 99.00 %" in lines[4]


def test_a_missing_folder_is_a_usage_error(tmp_path):
    assert run_script(tmp_path / "nowhere").returncode != 0
