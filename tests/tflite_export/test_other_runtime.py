"""LiteRT of another environment runs the proof, too."""

import sys

import pytest

from tests.tflite_export.graphs import random_codes, small_network
from tests.tflite_export.test_processors import every_pair, product_graph
from tflite_export import OtherRuntime, VerificationError, export, verify


@pytest.fixture(scope="module")
def other():
    return OtherRuntime(sys.executable)


def test_another_python_proves_a_file(other, tmp_path):
    graph = small_network()
    path = tmp_path / "net.tflite"
    report = export(graph, path, runtimes=[other], verbose=False)
    one, two, third = report.verifications
    assert third.runtime == other.said()
    assert third.runtime.startswith("ai_edge_litert 2.")
    assert (third.differing, third.elements) == (0, two.elements)
    assert one.profile == "litert_ref"
    codes = random_codes(graph, samples=3)
    results = verify(graph, path.read_bytes(), "litert", codes, runtimes=[other])
    assert [each.samples for each in results] == [3, 3, 3]


def test_its_reference_kernels_can_be_asked_for(tmp_path):
    reference = OtherRuntime(sys.executable, "litert_ref")
    report = export(small_network(), tmp_path / "net.tflite", runtimes=[reference], verbose=False)
    assert report.verifications[-1].elements == report.verifications[0].elements


def test_a_runtime_that_differs_is_named(tmp_path):
    """This processor is none of arm64, so its products differ from that profile."""
    wrong = OtherRuntime(sys.executable, "xnnpack-arm64")
    with pytest.raises(VerificationError, match=r"ai_edge_litert .* differ first in tensor 'y'"):
        export(product_graph(), tmp_path / "y.tflite", samples=every_pair(), runtimes=[wrong])
    assert not (tmp_path / "y.tflite").exists()


def test_a_runtime_that_refuses_a_file_goes_on(other):
    with pytest.raises(RuntimeError, match="refused: ValueError"):
        other._ask({"model": random_codes(small_network())["image"], "outputs": [0], **BATCH})
    assert other.said()


BATCH = {"batch": 1, "reference": False, "compiled": False}


def test_compiled_model_proves_a_file(tmp_path):
    compiled = OtherRuntime(sys.executable, compiled_model=True)
    report = export(small_network(), tmp_path / "net.tflite", runtimes=[compiled], verbose=False)
    _, two, third = report.verifications
    assert third.runtime.endswith("CompiledModel")
    assert (third.differing, third.elements) == (0, two.elements)
    with pytest.raises(ValueError, match="CompiledModel runs XNNPACK alone"):
        OtherRuntime(sys.executable, "litert_ref", compiled_model=True)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no_such_python", "does not start"),
        ((sys.executable, "-c", "raise SystemExit(7)"), "ended with status 7"),
    ],
)
def test_a_python_that_does_not_answer_is_an_error(command, message, tmp_path):
    with pytest.raises(RuntimeError, match=message):
        export(small_network(), tmp_path / "net.tflite", runtimes=[OtherRuntime(command)])


def test_a_python_without_a_runtime_says_so(tmp_path):
    bare = OtherRuntime((sys.executable, "-S", "-c", BARE))
    with pytest.raises(RuntimeError, match="neither ai_edge_litert nor tflite_runtime"):
        bare.said()


BARE = f"""
import sys
sys.path += {sys.path!r}
sys.modules["ai_edge_litert"] = sys.modules["tflite_runtime"] = None
script = sys.argv[1]
exec(compile(open(script).read(), script, "exec"), {{"__name__": "__main__"}})
"""


def test_the_profile_and_the_target_are_checked(other, tmp_path):
    with pytest.raises(ValueError, match="rounding profile must be one of"):
        OtherRuntime(sys.executable, "arm")
    with pytest.raises(ValueError, match="target 'tflm' does not use"):
        export(small_network(), tmp_path / "net.tflite", target="tflm", runtimes=[other])
