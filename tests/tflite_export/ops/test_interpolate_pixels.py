"""RESIZE_BILINEAR end to end."""

import hypothesis.strategies as st
from hypothesis import given

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import input_grids, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law

factors = st.sampled_from([1, 2, 4, 8, 64])


@st.composite
def interpolations(draw: st.DrawFn) -> IntegerGraph:
    times = draw(st.tuples(factors, factors).filter(lambda pair: pair != (64, 64)))
    shape = (1, draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 4)))
    return one_op_graph(
        lambda _, x: ops.InterpolatePixels((x,), "y", times), shape, draw(input_grids())
    )


@exact_law
@given(interpolations())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)
