"""ARG_MAX end to end."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import input_grids, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law


@st.composite
def argmax_graphs(draw: st.DrawFn) -> IntegerGraph:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    axis = draw(st.integers(1, len(sizes)))
    shape = (1, *sizes)
    return one_op_graph(lambda _, x: ops.ArgMax((x,), "y", axis), shape, draw(input_grids()))


@exact_law
@given(argmax_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_another_axis_is_refused(axis):
    with pytest.raises(ValueError, match="has no axis"):
        ops.ArgMax(("x",), "y", axis).output_shape([(1, 4)])
