"""STRIDED_SLICE end to end."""

import hypothesis.strategies as st
from hypothesis import given

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import input_grids, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law

crops = st.tuples(st.integers(0, 2), st.integers(0, 2))


@st.composite
def crop_graphs(draw: st.DrawFn) -> IntegerGraph:
    amounts = (draw(crops), draw(crops))
    shape = (1, 5, 6, draw(st.integers(1, 5)))
    return one_op_graph(lambda _, x: ops.Crop((x,), "y", amounts), shape, draw(input_grids()))


@exact_law
@given(crop_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)
