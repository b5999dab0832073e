"""SOFTMAX end to end: two arithmetics, both without a difference."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import IntegerGraph, QuantParams, ops
from keras_qat.integer.ops.softmax import MAX_SOFTMAX_CLASSES
from tests.tflite_export.graphs import input_grids, log_uniform, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law
from tflite_export import export

pytestmark = pytest.mark.slow_beyond(1)


@st.composite
def softmax_graphs(draw: st.DrawFn) -> IntegerGraph:
    shape = (1, *draw(st.sampled_from([(), (3,), (2, 2)])), draw(st.integers(1, 40)))
    x_grid = draw(input_grids(log_uniform(-12, 6)))
    return one_op_graph(lambda _, x: ops.Softmax((x,), "y"), shape, x_grid, ops.SOFTMAX_OUTPUT)


@exact_law
@given(softmax_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph, samples=16)


@pytest.mark.parametrize("classes", [2, 10, 100, MAX_SOFTMAX_CLASSES])
@pytest.mark.parametrize("scale", [1e-3, 0.04, 0.5])
def test_many_classes(classes, scale):
    grid = QuantParams(np.float32(scale), zero_point=11)
    graph = one_op_graph(
        lambda _, x: ops.Softmax((x,), "y"), (1, classes), grid, ops.SOFTMAX_OUTPUT
    )
    assert_exact(graph, samples=64)


@pytest.mark.parametrize("classes", [MAX_SOFTMAX_CLASSES + 1, 1000])
def test_more_classes_than_the_fixed_point_kernel_survives(classes, tmp_path):
    grid = QuantParams(np.float32(0.1), zero_point=11)
    graph = one_op_graph(
        lambda _, x: ops.Softmax((x,), "y"), (1, classes), grid, ops.SOFTMAX_OUTPUT
    )
    report = export(graph, tmp_path / "softmax.tflite", verbose=False)
    assert [each.profile for each in report.verifications] == ["xnnpack-x86"]
    assert any("reference kernels abort" in limit for limit in report.limits)
