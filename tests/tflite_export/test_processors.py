"""What a file computes on other processors: stated, counted, refused where asked."""

import re

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.integer import GraphBuilder, QuantParams, ops, run
from keras_qat.integer.op_numbers import NUMPY, fused_multiply_add
from tests.end_to_end.test_inference_of_arm64 import X, gated_network
from tests.models import points
from tests.tflite_export.float_networks import difference_graph
from tests.tflite_export.graphs import one_op_graph
from tflite_export import ExportError
from tflite_export.legal.legality import here, runnable_profiles
from tflite_export.targets import get_target

LITERT, TFLM = get_target("litert"), get_target("tflm")
GRID = QuantParams(np.float32(0.5))


def product_graph(left=1.5, right=0.82, output=1.2):
    """48 of its 65,536 pairs of codes differ."""
    builder = GraphBuilder()
    names = [
        builder.add_input(name, (1, 256), QuantParams(np.float32(scale)))
        for name, scale in (("left", left), ("right", right))
    ]
    y = builder.add(ops.Mul(tuple(names), "y"), QuantParams(np.float32(output)))
    return builder.build((y,))


def mean_graph(side=8, scale=0.44, output=0.2):
    """5 of its sums differ."""
    grids = [QuantParams(np.float32(each), 0, 0, 255).placed_in_int8() for each in (scale, output)]
    return one_op_graph(lambda _, x: ops.Mean((x,), "y"), (1, side, side, 3), *grids)


def softmax_graph(classes, scale):
    grid = QuantParams(np.float32(scale))
    return one_op_graph(lambda _, x: ops.Softmax((x,), "y"), (1, classes), grid, ops.SOFTMAX_OUTPUT)


def every_pair():
    left, right = (each.reshape(256, 256) for each in np.indices((256, 256)) - 128)
    return {"left": left.astype(np.int8), "right": right.astype(np.int8)}


def exported(graph, tmp_path, **options):
    return tflite_export.export(graph, tmp_path / "net.tflite", verbose=False, **options)


def test_a_product_is_counted_on_samples_and_on_all_pairs(tmp_path):
    report = exported(product_graph(), tmp_path, samples=every_pair())
    (found,) = report.processors
    assert (found.profile, found.other, found.samples) == ("xnnpack-x86", "xnnpack-arm64", 256)
    (operator,) = found.operators
    assert (operator.operator, operator.differing, operator.possible) == ("MUL", 48, 48)
    assert (operator.elements, operator.inputs) == (65_536, 65_536)
    assert found.outputs[0].max_steps == 1
    text = " ".join(report.render().split())  # lines end at the terminal's width
    assert "As xnnpack-arm64 instead of xnnpack-x86 the last bit may differ in MUL 'y'" in text
    assert "48 of 65,536 elements, 48 of all 65,536 pairs of codes (256 samples)" in text
    assert '"possible": 48' in report.to_json()


def test_a_mean_is_counted_on_all_sums(tmp_path):
    report = exported(mean_graph(), tmp_path)
    (operator,) = report.processors[0].operators
    assert (operator.operator, operator.possible, operator.inputs) == ("MEAN", 5, 64 * 255 + 1)


@pytest.mark.parametrize(
    ("classes", "scale", "possible", "inputs"),
    [(2, 0.02, True, 511), (3, 0.1, True, 256**3 - 255**3), (10, 0.1, None, None)],
)
def test_a_softmax_is_tried_on_all_rows_where_they_are_few(
    classes, scale, possible, inputs, tmp_path
):
    report = exported(softmax_graph(classes, scale), tmp_path)
    (operator,) = report.processors[0].operators
    assert operator.inputs == inputs
    assert operator.possible is None if possible is None else operator.possible > 0


def test_a_file_without_such_an_operator_says_so(tmp_path):
    graph = softmax_graph(2, 0.1)
    report = exported(graph, tmp_path, portable=True)
    assert report.processors[0].operators == ()
    said = "As xnnpack-arm64 and as xnnpack-x86 this file computes the same."
    assert said in " ".join(report.render().split())


def test_a_file_for_microcontrollers_has_no_processors(tmp_path):
    assert exported(product_graph(), tmp_path, target="tflm", portable=True).processors == ()


def test_end_to_end_only_what_follows_is_computed_again(tmp_path):
    """The same outputs as a run of the whole graph in the other profile."""
    qmodel = keras_qat.quantize(gated_network(), calibration_data=X)
    graph = qmodel.to_integer()
    report = exported(qmodel, tmp_path, samples=X)
    codes = {name: graph.tensors[name].quantize(X) for name in graph.inputs}
    one, two = (run(graph, codes, each)["answers"] for each in ("xnnpack-x86", "xnnpack-arm64"))
    (output,) = report.processors[0].outputs
    apart = np.abs(one.astype(int) - two)
    assert (output.mean_steps, output.max_steps) == (apart.mean(), apart.max())
    assert {each.operator for each in report.processors[0].operators} >= {"SOFTMAX"}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            product_graph(),
            r"MUL 'y' .* than as 'xnnpack-x86', for 48 of 65,536 inputs",
        ),
        (
            softmax_graph(10, 0.1),
            r"SOFTMAX 'y' .* bit as 'xnnpack-arm64' than .* for some inputs",
        ),
        (difference_graph(2.0, GRID, GRID, GRID), r"compute in float32"),
    ],
    ids=["product", "softmax", "float"],
)
def test_portable_refuses_by_name(graph, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        exported(graph, tmp_path, portable=True)
    assert not (tmp_path / "net.tflite").exists()


def test_portable_writes_a_mean_as_a_convolution(tmp_path):
    report = exported(mean_graph(), tmp_path, portable=True)
    assert report.processors[0].operators == ()
    assert "DEPTHWISE_CONV_2D" in {each.code for each in report.operators}
    assert "MEAN" in {each.code for each in exported(mean_graph(), tmp_path).operators}


def test_the_way_out_of_a_softmax_is_its_scores(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, activation="softmax")])
    x = points(40, 6)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    with pytest.raises(ExportError, match="Export the scores before it: outputs=") as error:
        exported(qmodel, tmp_path, samples=x, portable=True)
    (scores,) = re.findall(r"outputs=\['(.*?)'\]", str(error.value))
    report = exported(qmodel, tmp_path, samples=x, portable=True, outputs=[scores])
    assert report.processors[0].operators == ()


def test_this_machine_is_proven_in_its_own_profile(monkeypatch):
    graph = softmax_graph(2, 0.1)
    for machine, profile in (("x86_64", "xnnpack-x86"), ("aarch64", "xnnpack-arm64")):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert here(LITERT) == profile
        assert runnable_profiles(graph, LITERT) == ("litert_ref", profile)
        assert runnable_profiles(graph, TFLM) == ("tflm",)


def test_a_fused_multiply_add_is_rounded_once():
    """Where a sum in float64 lies half way between two float32 numbers, its lost part decides."""
    one = 1.0 + 2.0**-23
    a, b = one, (1.0 - 2.0**-23) * 2.0**-24
    assert float(np.float32(a * b + one)) == 1 + 2.0**-22  # rounded twice
    assert float(fused_multiply_add(NUMPY, a, b, one)) == one
    assert float(fused_multiply_add(NUMPY, -a, -b, one)) == one
    assert float(fused_multiply_add(NUMPY, one * 2.0**-24, one, 1.0)) == one
