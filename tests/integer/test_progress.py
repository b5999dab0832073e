"""Progress: shown on a terminal, gone when it is done, silent elsewhere."""

import contextlib
import io

import pytest

import keras_qat
import tflite_export
from keras_qat.integer import progress
from keras_qat.integer.progress import stage, tracked
from tests.models import dense_network, points


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Standard error for a `with`, as pytest sets its own one after fixtures."""
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def fail_in(text):
    with stage(text, total=4) as advance:
        advance(1)
        raise KeyError(text)


def test_stages_are_shown_inside_each_other(terminal):
    with contextlib.redirect_stderr(terminal), stage("outside"):
        assert list(tracked([1, 2, 3], "inside")) == [1, 2, 3]
        with pytest.raises(KeyError):
            fail_in("failing")
    assert progress._CURRENT == []
    text = terminal.getvalue()
    assert all(name in text for name in ("outside", "inside", "failing"))


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_elsewhere_nothing_is_shown(stream):
    with contextlib.redirect_stderr(stream), stage("quiet", total=2) as advance:
        advance(2)
    assert stream is None or stream.getvalue() == ""


def test_quantize_calibration_and_proof_show_theirs(terminal, tmp_path):
    x, _ = points(200)
    with contextlib.redirect_stderr(terminal):
        qmodel = keras_qat.quantize(dense_network(), calibration_data=x)
        tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    text = terminal.getvalue()
    stages = ("Taking ", "Measuring ranges", "Calibrating", "Comparing with", "Proving the file")
    assert [name for name in stages if name not in text] == []


def test_no_terminal_sees_anything_of_quantize(capsys):
    keras_qat.plan(dense_network(), calibration_data=points(8)[0])
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
