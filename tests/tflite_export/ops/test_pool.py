"""MAX_POOL_2D and AVERAGE_POOL_2D end to end."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from keras_qat.integer import IntegerGraph, ops
from tests.tflite_export.graphs import input_grids, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def pool_graphs(draw: st.DrawFn, kind: type) -> IntegerGraph:
    options = {
        "pool_size": draw(pairs),
        "strides": draw(pairs),
        "padding": draw(st.sampled_from(["same", "valid"])),
    }
    shape = (1, draw(st.integers(4, 9)), draw(st.integers(4, 9)), draw(st.integers(1, 9)))
    return one_op_graph(lambda _, x: kind((x,), "y", **options), shape, draw(input_grids()))


@pytest.mark.parametrize("kind", [ops.MaxPool2D, ops.AveragePool2D])
@exact_law
@given(data=st.data())
def test_every_runtime_computes_the_graph(kind, data):
    assert_exact(data.draw(pool_graphs(kind)))
