"""CONV_2D end to end."""

import functools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import linear_graphs, one_op_graph, sides, window_options
from tests.tflite_export.harness import assert_exact, exact_law

pytestmark = pytest.mark.slow_beyond(1)


@st.composite
def conv_graphs(draw: st.DrawFn) -> IntegerGraph:
    channels, filters = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    shape = (1, draw(st.integers(7, 9)), draw(st.integers(7, 9)), channels)
    kernel = (filters, draw(sides), draw(sides), channels)
    make = functools.partial(_conv, draw(window_options()))
    return draw(linear_graphs(shape, kernel, make, 0))


@st.composite
def grouped_graphs(draw: st.DrawFn) -> IntegerGraph:
    groups, channels, filters = draw(st.tuples(*[st.integers(1, 4)] * 3))
    shape = (1, draw(st.integers(7, 9)), draw(st.integers(7, 9)), groups * channels)
    kernel = (groups * filters, draw(sides), draw(sides), channels)
    make = functools.partial(_conv, draw(window_options()))
    return draw(linear_graphs(shape, kernel, make, 0))


def _conv(options, inputs, output, weight, bias, activation):
    return ops.Conv2D(inputs, output, weight, bias, activation, **options)


@exact_law
@given(conv_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)


@exact_law
@given(grouped_graphs())
def test_every_runtime_computes_groups(graph):
    assert_exact(graph)


@pytest.mark.parametrize("zero_point", [-128, -1, 0, 127])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_zero_point_corners_meet_padding(zero_point, padding):
    weight = ops.QuantizedArray(
        np.arange(-13, 14, dtype=np.int8).reshape(1, 3, 3, 3),
        QuantParams(np.array([0.01], np.float32), 0, -13, 13, 0),
    )
    grid = QuantParams(np.float32(0.05), zero_point=zero_point)
    graph = one_op_graph(
        lambda _, x: ops.Conv2D((x,), "y", weight, np.zeros(1), padding=padding),
        (1, 5, 5, 3),
        grid,
        QuantParams(np.float32(0.05), zero_point=-zero_point - 1),
    )
    assert_exact(graph)


def test_a_scalar_weight_scale_is_written_as_a_vector():
    weight = ops.QuantizedArray(
        np.full((4, 1, 1, 2), 3, np.int8), QuantParams(np.float32(0.1), 0, -3, 3)
    )
    grid = QuantParams(np.float32(0.05))
    assert_exact(
        one_op_graph(
            lambda _, x: ops.Conv2D((x,), "y", weight, np.full(4, 0.7)), (1, 2, 2, 2), grid
        )
    )
