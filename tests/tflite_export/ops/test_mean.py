"""MEAN over height and width end to end."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import input_grids, log_uniform, one_op_graph, output_grids
from tests.tflite_export.harness import assert_exact, exact_law

pytestmark = pytest.mark.slow_beyond(1)


@st.composite
def mean_graphs(draw: st.DrawFn) -> IntegerGraph:
    x_grid = draw(input_grids())
    y_grid = draw(output_grids("linear", float(x_grid.scale) * draw(log_uniform(-6, 4))))
    shape = (1, draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(1, 9)))
    return one_op_graph(lambda _, x: ops.Mean((x,), "y"), shape, x_grid, y_grid)


@exact_law
@given(mean_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph, samples=8)


@pytest.mark.parametrize("side", [1, 2, 7, 8, 32, 40])
def test_counts_around_powers_of_two(side):
    x_grid = QuantParams(np.float32(0.02), zero_point=-128)
    y_grid = QuantParams(np.float32(0.013), zero_point=-128)
    graph = one_op_graph(lambda _, x: ops.Mean((x,), "y"), (1, side, side, 5), x_grid, y_grid)
    assert_exact(graph)
