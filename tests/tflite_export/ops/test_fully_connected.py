"""FULLY_CONNECTED end to end."""

import hypothesis.strategies as st
from hypothesis import given

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import linear_graphs
from tests.tflite_export.harness import assert_exact, exact_law


@st.composite
def dense_graphs(draw: st.DrawFn) -> IntegerGraph:
    features, units = draw(st.tuples(st.integers(1, 70), st.integers(1, 17)))
    places = draw(st.just([]) | st.lists(st.integers(1, 4), max_size=2))
    return draw(linear_graphs((1, *places, features), (units, features), ops.FullyConnected, 0))


@exact_law
@given(dense_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph, samples=8)
