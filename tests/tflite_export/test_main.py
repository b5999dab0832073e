"""The command line: one line on stderr and status 1 when something is wrong."""

import subprocess
import sys

import pytest

from keras_qat.integer import save_graph
from tests.tflite_export.graphs import small_network


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tflite_export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def source(tmp_path):
    save_graph(small_network(), tmp_path / "net.npz")
    return tmp_path / "net.npz"


def test_a_graph_becomes_a_file(source, tmp_path):
    result = call(source, tmp_path / "net.tflite", "--target=tflm", "--io_dtype=float32")
    assert result.returncode == 0, result.stderr
    assert "TensorFlow Lite Micro: 0 of" in result.stdout
    assert (tmp_path / "net.tflite").read_bytes()[4:8] == b"TFL3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.npz", "net.tflite"], "missing.npz"),
        (["{source}", "net.bin"], "must end in '.tflite'"),
        (["{source}"], "usage: python -m tflite_export"),
        (["{text}", "net.tflite"], "not a readable integer graph"),
    ],
)
def test_problems_are_one_line(source, tmp_path, arguments, message):
    text = tmp_path / "text.npz"
    text.write_text("hello")
    result = call(*(a.format(source=source, text=text) for a in arguments))
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
