"""PAD end to end."""

import hypothesis.strategies as st
from hypothesis import given

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import input_grids, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law

pads = st.tuples(st.integers(0, 3), st.integers(0, 3))


@st.composite
def pad_graphs(draw: st.DrawFn) -> IntegerGraph:
    amounts = (draw(pads), draw(pads))
    shape = (1, 4, 5, draw(st.integers(1, 5)))
    return one_op_graph(lambda _, x: ops.Pad((x,), "y", amounts), shape, draw(input_grids()))


@exact_law
@given(pad_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)
