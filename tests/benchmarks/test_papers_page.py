"""The page of the papers' tasks says how far every study is, from its results alone."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "papers_page.py"
LIST = """
# a list
vgg_small  float  32  0
vgg_small  lsq     2  0  --reestimate  # the second
vgg_small  lsq     1  0
"""


@pytest.fixture
def written(tmp_path):
    """Writes the page anew, and returns its one line that starts with some text."""
    (tmp_path / "queue.txt").write_text(LIST)

    def line_of(start):
        flags = (f"--results_dir={tmp_path}", f"--list={tmp_path / 'queue.txt'}")
        subprocess.run([sys.executable, SCRIPT, *flags], check=True)
        lines = (tmp_path / "papers.md").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(start))
        return line

    return line_of


def test_nothing_has_begun(written):
    assert written("| VGG-small").endswith("| waits: 3 runs |")
    assert written("| VGG16-BN").endswith("| not run |")
    assert written("| ResNet-18").endswith("| 69.5 / - / 68.9 / 58.6 | not run |")
    assert written("| w2a2_lsq_seed0") == "| w2a2_lsq_seed0 | waits | | | |"


def test_finished_and_running_runs(written, tmp_path):
    folder = tmp_path / "vgg_small"
    folder.mkdir()
    (folder / "w32a32_float_seed0.json").write_text(json.dumps({"test_accuracy": 93.456}))
    done = {"qat_accuracy": 91.0, "tflite_accuracy": 90.98, "file_bytes": 4700000}
    done |= {"mismatches": 0, "compared_elements": 123456}
    (folder / "w2a2_lsq_seed0.json").write_text(json.dumps(done))
    (folder / "w1a1_lsq_seed0.csv").write_text("epoch,loss\n0,1.5\n1,1.0\n")
    assert written("| VGG-small").endswith("| 2 of 3 runs |")
    assert written("| w32a32_float_seed0") == "| w32a32_float_seed0 | 93.46 | | | |"
    row = "| w2a2_lsq_seed0 | 91.00 | 90.98 | 4,700,000 | 0 of 123,456 |"
    assert written("| w2a2_lsq_seed0") == row
    assert written("| w1a1_lsq_seed0") == "| w1a1_lsq_seed0 | running: epoch 2 | | | |"
