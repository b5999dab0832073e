"""TRANSPOSE end to end."""

import hypothesis.strategies as st
from hypothesis import given

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import input_grids, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law


@st.composite
def transpose_graphs(draw: st.DrawFn) -> IntegerGraph:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    axes = tuple(draw(st.permutations(range(1, len(sizes) + 1))))
    shape = (1, *sizes)
    return one_op_graph(lambda _, x: ops.Transpose((x,), "y", axes), shape, draw(input_grids()))


@exact_law
@given(transpose_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)
