"""RESIZE_NEAREST_NEIGHBOR end to end."""

import hypothesis.strategies as st
from hypothesis import given

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import input_grids, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law

factors = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def repeat_pixels_graphs(draw: st.DrawFn) -> IntegerGraph:
    times = draw(factors)
    shape = (1, draw(st.integers(1, 7)), draw(st.integers(1, 7)), draw(st.integers(1, 4)))
    return one_op_graph(lambda _, x: ops.RepeatPixels((x,), "y", times), shape, draw(input_grids()))


@exact_law
@given(repeat_pixels_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)
