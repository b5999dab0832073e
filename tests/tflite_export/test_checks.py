"""`check`: where each operator runs on a target, by this machine's tools or dated sources."""

import dataclasses
import json
import re
import sys

import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.integer import QuantParams, ops
from tests.end_to_end.test_inference_of_arm64 import X, gated_network
from tests.tflite_export.float_networks import difference_graph
from tests.tflite_export.graphs import one_op_graph, small_network
from tests.tflite_export.test_kernels import convolution, depthwise
from tflite_export import check
from tflite_export.checks.check import CHECKED
from tflite_export.checks.rows import OperatorCheck
from tflite_export.checks.vela import ACCELERATORS
from tflite_export.file.writer import read_model, write_model
from tflite_export.targets import TARGETS

GRID = QuantParams(np.float32(0.5))
WIDE = QuantParams(np.float32(2.0**-11))
INT4_IN_GROUPS = convolution((1, 4, 4, 64), (64, 3, 3), bits=4, groups=2, grid=WIDE)


def statuses(found):
    return {(row.operator, row.fact.status) for row in found.rows}


@pytest.fixture(scope="module")
def qmodel():
    return keras_qat.quantize(gated_network(), calibration_data=X)


@pytest.mark.parametrize("target", CHECKED)
def test_every_operator_has_a_row_with_a_source(target, qmodel, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = check(qmodel, target)
    assert found.runs
    assert found.target == target
    for row in found.rows:
        assert isinstance(row, OperatorCheck)
        assert row.fact.why
        assert row.fact.source
    assert {row.name for row in found.rows} >= {"squeeze", "scaled", "answers"}
    text = found.render()
    assert all(row.fact.status.split()[0] in text for row in found.rows)
    assert max(map(len, text.splitlines())) <= 80
    assert len(found.to_dataframe()) == len(found.rows)
    assert json.loads(found.to_json())["runs"] is True


def test_litert_is_asked_what_xnnpack_takes(qmodel):
    checked = check(qmodel, "litert-cpu")
    found = {row.name: row.fact for row in checked.rows}
    assert {("CONV_2D", "fast"), ("MUL", "fast"), ("GATHER", "runs")} <= statuses(checked)
    assert found["answers"].status == "runs"
    for name in ("scaled", "squeeze", "answers"):
        assert "its last bit depends on the processor" in found[name].why
    assert found["scaled"].source.startswith("LiteRT 2.")


def test_a_file_is_checked_as_it_is(qmodel, tmp_path):
    """Also one for another target: LiteRT has no lookup tables of weights."""
    path = tmp_path / "net.tflite"
    tflite_export.export(
        small_network(weight_bits=2), path, target="tflm", weight_storage="lut", verbose=False
    )
    for given in (path, str(path), path.read_bytes()):
        found = check(given, "litert-cpu")
        assert ("TFLM_DECODE", "refused") in statuses(found)
        assert not found.runs
    assert check(path, "tflm").runs


def test_what_a_target_cannot_hold_is_a_row():
    found = check(difference_graph(2.0, GRID, GRID, GRID), "esp32")
    (row,) = found.rows
    assert row.fact.status == "refused"
    assert "compute in float32" in row.fact.why


@pytest.mark.parametrize(
    ("graph", "target", "status", "why"),
    [
        (depthwise((1, 8, 8, 9), (3, 3), bits=4), "cmsis-nn", "fast", "wrong on M55 when GCC 12"),
        (depthwise((1, 8, 8, 8), (3, 3), bits=4), "cmsis-nn", "fast", "a kernel of CMSIS-NN"),
        (convolution((1, 4, 4, 64), (64, 3, 3), bits=4), "tflm", "runs", "reference kernel"),
    ],
)
def test_kernels_for_int4(graph, target, status, why, tmp_path):
    path = tmp_path / "net.tflite"
    options = {"target": "tflm", "weight_storage": "int4", "verbose": False}
    tflite_export.export(graph, path, **options)
    (row,) = check(path, target).rows
    assert (row.fact.status, why in row.fact.why) == (status, True)
    (row,) = check(path, "esp32").rows
    assert row.fact.status == "slow"


def test_int4_in_groups_is_never_written_and_would_be_refused(tmp_path):
    """A file of another tool may have it; CMSIS-NN answers garbage without an error."""
    path = tmp_path / "net.tflite"
    tflite_export.export(INT4_IN_GROUPS, path, target="tflm", weight_storage="int4", verbose=False)
    file = read_model(path.read_bytes())
    (operator,) = file.operators
    weight = operator.inputs[1]
    assert file.tensors[weight].dtype == "int8"
    values = np.clip(file.tensors[weight].data, -7, 7)
    int4 = dataclasses.replace(file.tensors[weight], dtype="int4", data=values)
    other = dataclasses.replace(file, tensors={**file.tensors, weight: int4})
    (row,) = check(write_model(other), "cmsis-nn").rows
    assert (row.fact.status, row.fact.why) == (
        "refused",
        "the INT4 kernel ignores groups and yields garbage",
    )


def test_vela_says_what_leaves_the_npu(qmodel):
    pytest.importorskip("ethosu.vela", reason="pip install 'keras_qat[ethosu]'")
    found = check(qmodel, "ethos-u")
    by_operator = statuses(found)
    assert {("CONV_2D", "fast"), ("SOFTMAX", "fast"), ("GATHER", "slow")} <= by_operator
    slow = next(row for row in found.rows if row.fact.status == "slow")
    assert slow.fact.why.startswith("leaves the NPU: ")
    assert slow.fact.source.startswith("Vela 5.")
    (summary,) = found.summary
    assert "stay on the NPU (ethos-u55-128)" in summary
    assert re.search(r"[\d,]+ cycles, [\d,]+ bytes of SRAM, [\d,]+ bytes of flash\.", summary)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("litert", "litert-cpu"), ("esp-nn", "esp32"), ("cmsis-nn-m55", "cmsis-nn")],
)
def test_names_of_an_export_are_known(given, meant):
    graph = convolution((1, 8, 8, 8), (4, 3, 3))
    assert check(graph, given).to_json() == check(graph, meant).to_json()


def test_a_network_without_tables_stays_on_the_npu_whole():
    pytest.importorskip("ethosu.vela", reason="pip install 'keras_qat[ethosu]'")
    found = check(convolution((1, 8, 8, 8), (4, 3, 3)), "ethos-u", accelerator="ethos-u85-256")
    assert {row.fact.status for row in found.rows} == {"fast"}
    assert found.summary[0].startswith("100% of the operators")


@pytest.mark.parametrize("vela", [["no_such_vela"], [sys.executable, "-c", "raise SystemExit(3)"]])
def test_without_vela_the_error_says_how_to_get_it(vela):
    with pytest.raises(ImportError, match=r'pip install "keras_qat\[ethosu\]"'):
        check(convolution((1, 8, 8, 8), (4, 3, 3)), "ethos-u", vela=vela)


def test_a_file_that_vela_cannot_compile_is_an_error():
    stub = "import sys; sys.argv[-1] == '--version' or sys.exit('no such operator')"
    with pytest.raises(RuntimeError, match="Vela cannot compile the file: no such operator"):
        check(convolution((1, 8, 8, 8), (4, 3, 3)), "ethos-u", vela=[sys.executable, "-c", stub])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"target": "npu"}, "target must be"), ({"accelerator": "u55"}, "accelerator must be")],
)
def test_unknown_names_are_refused(options, message):
    assert "ethos-u65-512" in ACCELERATORS
    with pytest.raises(ValueError, match=message):
        check(convolution((1, 8, 8, 8), (4, 3, 3)), **{"target": "ethos-u", **options})


def test_a_model_for_the_npu_computes_and_is_proven_as_tflm(tmp_path):
    qmodel = keras_qat.quantize(gated_network(), calibration_data=X, target="ethos-u")
    assert qmodel.computes_as == "tflm"
    report = tflite_export.export(
        qmodel, tmp_path / "net.tflite", target="ethos-u", samples=X, verbose=False
    )
    assert (report.target, report.mismatches, report.comparison.flip_rate) == ("ethos-u", 0, 0.0)
    assert {each.storage for each in report.weights} == {"int8"}
    assert report.evaluation is None
    assert TARGETS["ethos-u"].family == "tflm"
    with pytest.raises(ValueError, match="loads weights as int8"):
        tflite_export.export(
            qmodel, tmp_path / "net.tflite", target="ethos-u", weight_storage="lut"
        )


def test_a_lookup_of_few_functions_is_an_operator_of_the_npu():
    """A tanh on its own grid."""
    table = np.rint(np.tanh(np.arange(-128, 128) * 0.02) * 128).clip(-128, 127).astype(np.int8)
    grid = QuantParams(np.float32(0.02))
    graph = one_op_graph(
        lambda _, x: ops.Lookup((x,), "y", table), (1, 8), grid, QuantParams(np.float32(1 / 128))
    )
    (row,) = check(graph, "tflm").rows
    assert row.operator == "TANH"
