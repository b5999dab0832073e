"""FULLY_CONNECTED end to end."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import linear_graphs
from tests.tflite_export.harness import assert_exact, exact_law


@st.composite
def dense_graphs(draw: st.DrawFn) -> IntegerGraph:
    features, units = draw(st.tuples(st.integers(1, 70), st.integers(1, 17)))
    places = draw(st.just([]) | st.lists(st.integers(1, 4), max_size=2))
    graph = draw(linear_graphs((1, *places, features), (units, features), ops.FullyConnected, 0))
    return with_one_scale(graph) if draw(st.booleans()) else graph


def with_one_scale(graph: IntegerGraph) -> IntegerGraph:
    """The same codes, and the largest scale for all of them."""
    (op,) = graph.ops
    grid = op.weight.qparams
    shared = dataclasses.replace(grid, scale=grid.scale.max(), axis=None)
    weight = dataclasses.replace(op.weight, qparams=shared)
    return dataclasses.replace(graph, ops=(dataclasses.replace(op, weight=weight),))


@exact_law
@given(dense_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph, samples=8)


@pytest.mark.parametrize("units", [1, 2])
def test_a_single_output_with_large_steps_runs(units):
    """TensorFlow Lite Micro checks the scale of a bias where the weights have one scale."""
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 6), QuantParams(np.float32(0.1)))
    grid = QuantParams(np.ones(units, np.float32), 0, -127, 127, 0)
    weight = ops.QuantizedArray(np.ones((units, 6), np.int8), grid)
    op = ops.FullyConnected((x,), "y", weight, np.zeros(units), "linear")
    assert_exact(builder.build((builder.add(op, QuantParams(np.float32(0.1))),)))
