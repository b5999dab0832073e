"""MAXIMUM and MINIMUM against a constant, end to end."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from keras_qat.integer import IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import input_grids, one_op_graph
from tests.tflite_export.harness import assert_exact, exact_law


def _clamped(x: QuantParams, kind: type, bound: int) -> QuantParams:
    keep = max if kind is ops.Maximum else min
    return QuantParams(x.scale, x.zero_point, keep(x.qmin, bound), keep(x.qmax, bound))


@st.composite
def clamp_graphs(draw: st.DrawFn, kind: type) -> IntegerGraph:
    x_grid = draw(input_grids())
    bound = draw(st.integers(-128, 127))
    shape = (1, *draw(st.sampled_from([(7,), (3, 2, 5)])))
    return one_op_graph(
        lambda _, x: kind((x,), "y", bound), shape, x_grid, _clamped(x_grid, kind, bound)
    )


@pytest.mark.parametrize("kind", [ops.Maximum, ops.Minimum])
@exact_law
@given(data=st.data())
def test_every_runtime_computes_the_graph(kind, data):
    assert_exact(data.draw(clamp_graphs(kind)))
