"""A mean of few codes is the nearest step for every sum of them, whatever kernel computes it."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

import tflite_export
from keras_qat.integer import IntegerGraph, QuantParams, ops, run
from tests.tflite_export.graphs import log_uniform, one_op_graph
from tests.tflite_export.harness import exact_law
from tflite_export.legal.legalize import legalize
from tflite_export.targets import get_target

TRAINED = (8, 1, 1.9562016, 0.01010833)
"""Side, bits and scales of a trained ResNet-8 at 1 bit: 21 ones of 64 are 63.49998 steps."""


def mean_graph(
    side: int, bits: int, x_scale: float, y_scale: float, y_bits: int = 8, width: int | None = None
) -> IntegerGraph:
    x_grid = QuantParams(np.float32(x_scale), 0, 0, 2**bits - 1).placed_in_int8()
    y_grid = QuantParams(np.float32(y_scale), 0, 0, 2**y_bits - 1).placed_in_int8()
    shape = (1, side, width or side, 5)
    return one_op_graph(lambda _, x: ops.Mean((x,), "y"), shape, x_grid, y_grid)


def every_sum(graph: IntegerGraph) -> dict[str, np.ndarray]:
    """One example for each sum that the codes of an image can have, alike in all channels."""
    ((name, tensor),) = ((name, graph.tensors[name]) for name in graph.inputs)
    _, height, width, channels = tensor.shape
    levels = tensor.qparams.levels - 1
    order = np.arange(height * width)
    codes = np.stack(
        [np.clip(total - levels * order, 0, levels) for total in range(levels * order.size + 1)]
    )
    image = codes.reshape(-1, height, width, 1) + tensor.qparams.qmin
    return {name: np.repeat(image, channels, axis=-1).astype(np.int8)}


def operators(graph: IntegerGraph, target: str = "litert") -> list[str]:
    return [type(op).__name__ for op in legalize(graph, get_target(target)).graph.ops]


@st.composite
def means_of_few_codes(draw: st.DrawFn) -> IntegerGraph:
    side, bits = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    x_scale = draw(log_uniform(-8, 2))
    return mean_graph(side, bits, x_scale, x_scale / side**2 * draw(log_uniform(-4, 4)))


@exact_law
@example(mean_graph(*TRAINED))
@given(means_of_few_codes())
def test_every_sum_goes_to_the_nearest_step(graph):
    inputs = every_sum(graph)
    x, y = graph.tensors["x"].qparams, graph.tensors["y"].qparams
    steps = (inputs["x"].astype(int) - x.zero_point).mean(axis=(1, 2)) * float(x.scale)
    steps = np.clip(steps / float(y.scale) + y.zero_point, -128, 127)
    (found,) = run(legalize(graph, get_target("litert")).graph, inputs, "xnnpack").values()
    # A kernel's multiplier is a product of four float32 numbers, each rounded to 2**-24 of itself:
    # on 255 steps that is 6e-5. MEAN errs by up to 2e-3.
    assert np.abs(found - steps).max() <= 0.5 + 6e-5


def test_only_a_mean_that_errs_becomes_a_convolution():
    side, bits, x_scale, y_scale = TRAINED
    assert operators(mean_graph(*TRAINED)) == ["DepthwiseConv2D", "Reshape"]
    assert operators(mean_graph(*TRAINED), "tflm") == ["Mean"]
    assert operators(mean_graph(side, bits, x_scale, y_scale * 1.01)) == ["Mean"]
    assert operators(mean_graph(side, 8, x_scale, y_scale)) == ["Mean"]


def test_an_output_of_few_codes_keeps_its_lower_bound(tmp_path):
    graph = mean_graph(8, 1, 1.0, 21 / 64 / 11.49999, y_bits=6)
    convolution = legalize(graph, get_target("litert")).graph.ops[0]
    assert (type(convolution), convolution.activation) == (ops.DepthwiseConv2D, "relu")
    report = tflite_export.export(
        graph, tmp_path / "mean.tflite", samples=every_sum(graph), verbose=False
    )
    assert [each.differing for each in report.verifications] == [0, 0]


@pytest.mark.parametrize(("height", "width"), [(1, 64), (7, 7), (31, 33), (1, 1023)])
def test_the_file_of_any_window_is_proven_with_its_convolution(tmp_path, height, width):
    share = (height * width // 2) / (height * width)
    graph = mean_graph(height, 1, 1.0, share / 63.49999, width=width)
    report = tflite_export.export(
        graph, tmp_path / "mean.tflite", samples=every_sum(graph), verbose=False
    )
    assert [each.differing for each in report.verifications] == [0, 0]
    assert "DEPTHWISE_CONV_2D" in [operator.code for operator in report.operators]
