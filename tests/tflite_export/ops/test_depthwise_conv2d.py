"""DEPTHWISE_CONV_2D end to end."""

import functools

import hypothesis.strategies as st
from hypothesis import given

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import linear_graphs, sides, window_options
from tests.tflite_export.harness import assert_exact, exact_law


@st.composite
def depthwise_graphs(draw: st.DrawFn) -> IntegerGraph:
    channels, multiplier = draw(st.tuples(st.integers(1, 9), st.integers(1, 3)))
    shape = (1, draw(st.integers(7, 9)), draw(st.integers(7, 9)), channels)
    kernel = (1, draw(sides), draw(sides), channels * multiplier)
    make = functools.partial(_depthwise, draw(window_options()))
    return draw(linear_graphs(shape, kernel, make, 3))


def _depthwise(options, inputs, output, weight, bias, activation):
    return ops.DepthwiseConv2D(inputs, output, weight, bias, activation, **options)


@exact_law
@given(depthwise_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)
