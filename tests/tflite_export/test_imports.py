"""The package imports with NumPy alone, and says what to install when a runtime is missing."""

import subprocess
import sys

import pytest

from tests.tflite_export.graphs import small_network
from tflite_export import export

HEAVY = ("keras", "tensorflow", "ai_edge_litert", "flatbuffers", "tflite_micro", "absl")


def test_importing_loads_no_optional_package():
    code = (
        "import sys, tflite_export, keras_qat.integer\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("package", "extra", "target"),
    [("ai_edge_litert", "export", "litert"), ("tflite_micro", "tflm", "tflm")],
)
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, package, extra, target):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'pip install "keras_qat\[{extra}\]"'):
        export(small_network(), tmp_path / "net.tflite", target=target, verbose=False)
    assert list(tmp_path.iterdir()) == []
