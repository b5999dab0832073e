"""GATHER end to end."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import input_grids, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law


@st.composite
def gather_graphs(draw: st.DrawFn) -> IntegerGraph:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    axis = draw(st.integers(1, len(sizes)))
    places = st.integers(0, sizes[axis - 1] - 1)
    indices = tuple(draw(st.lists(places, min_size=1, max_size=7)))
    shape = (1, *sizes)
    return one_op_graph(
        lambda _, x: ops.Gather((x,), "y", indices, axis), shape, draw(input_grids())
    )


@exact_law
@given(gather_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)


@pytest.mark.parametrize(("indices", "axis"), [((0, 4), 1), ((-1,), 1), ((), 1), ((0,), 0)])
def test_places_outside_of_the_axis_are_refused(indices, axis):
    with pytest.raises(ValueError, match="cannot take the places"):
        ops.Gather(("x",), "y", indices, axis).output_shape([(1, 4)])
