"""CONCATENATION end to end."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import input_grids
from tests.tflite_export.harness import assert_exact, exact_law
from tflite_export.errors import ExportError
from tflite_export.legal.legality import check_legal
from tflite_export.targets import get_target


@st.composite
def concatenate_graphs(draw: st.DrawFn) -> IntegerGraph:
    grid, axis = draw(input_grids()), draw(st.integers(1, 3))
    builder = GraphBuilder()
    names = []
    for index in range(draw(st.integers(2, 4))):
        shape = [1, 3, 2, 4]
        shape[axis] = draw(st.integers(1, 5))
        names.append(builder.add_input(f"x{index}", tuple(shape), grid))
    return builder.build((builder.add(ops.Concatenate(tuple(names), "y", axis), grid),))


@exact_law
@given(concatenate_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)


def test_tensors_on_two_grids_do_not_join():
    builder = GraphBuilder()
    names = tuple(builder.add_input(f"x{scale}", (1, 4), QuantParams(scale)) for scale in (1, 2))
    grid = builder.tensor(names[0]).qparams
    graph = builder.build((builder.add(ops.Concatenate(names, "y", 1), grid),))
    with pytest.raises(ExportError, match="keeps the scale"):
        check_legal(graph, get_target("litert"))


@pytest.mark.parametrize("axis", [0, 2])
def test_an_axis_that_cannot_join_is_an_error(axis):
    builder = GraphBuilder()
    names = tuple(builder.add_input(n, (1, 4), QuantParams(1.0)) for n in "ab")
    with pytest.raises(ValueError, match="axis"):
        builder.add(ops.Concatenate(names, "y", axis), QuantParams(1.0))
