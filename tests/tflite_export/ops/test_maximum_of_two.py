"""MAXIMUM and MINIMUM of two tensors on one grid, end to end."""

import dataclasses

import hypothesis.strategies as st
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import broadcast_shapes, input_grids
from tests.tflite_export.harness import assert_exact, exact_law


@st.composite
def graphs(draw: st.DrawFn, kind: type) -> IntegerGraph:
    """Both grids have one scale and one zero point; the second may begin and end elsewhere."""
    left = draw(input_grids())
    low, high = sorted(draw(st.tuples(st.integers(-128, 127), st.integers(-128, 127))))
    right = dataclasses.replace(left, qmin=low, qmax=high) if draw(st.booleans()) else left
    keep = max if kind is ops.MaximumOfTwo else min
    output = QuantParams(
        left.scale, left.zero_point, keep(left.qmin, right.qmin), keep(left.qmax, right.qmax)
    )
    builder = GraphBuilder()
    inputs = [
        builder.add_input(name, shape, grid)
        for name, shape, grid in zip(
            ("left", "right"), draw(broadcast_shapes()), (left, right), strict=True
        )
    ]
    return builder.build((builder.add(kind(tuple(inputs), "y"), output),))


@pytest.mark.parametrize("kind", [ops.MaximumOfTwo, ops.MinimumOfTwo])
@exact_law
@given(data=st.data())
def test_every_runtime_computes_the_graph(kind, data):
    assert_exact(data.draw(graphs(kind)))
