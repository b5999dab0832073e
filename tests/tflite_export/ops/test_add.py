"""ADD and SUB end to end."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import (
    ACTIVATIONS,
    broadcast_shapes,
    input_grids,
    log_uniform,
    output_grids,
)
from tests.tflite_export.harness import assert_exact, exact_law

pytestmark = pytest.mark.slow_beyond(1)


@st.composite
def add_graphs(draw: st.DrawFn, kind: type) -> IntegerGraph:
    activation = draw(st.sampled_from(ACTIVATIONS))
    y_grid = draw(output_grids(activation, draw(log_uniform(-8, 2))))
    builder = GraphBuilder()
    terms = []
    for name, shape in zip(("left", "right"), draw(broadcast_shapes()), strict=True):
        ratio = draw(log_uniform(-9.9, 7.9))
        grid = draw(input_grids(st.just(float(y_grid.scale) * ratio)))
        terms.append(builder.add_input(name, shape, grid))
    y = builder.add(kind(tuple(terms), "y", activation), y_grid)
    return builder.build((y,))


@pytest.mark.parametrize("kind", [ops.Add, ops.Sub])
@exact_law
@given(data=st.data())
def test_every_runtime_computes_the_graph(kind, data):
    assert_exact(data.draw(add_graphs(kind)), samples=8)


@pytest.mark.parametrize("kind", [ops.Add, ops.Sub])
@pytest.mark.parametrize("exponent", [-10, -1, 0, 1, 7])
def test_ratios_that_are_powers_of_two_round_their_ties(kind, exponent):
    builder = GraphBuilder()
    grid = QuantParams(np.float32(2.0**exponent), zero_point=7)
    left, right = (builder.add_input(name, (1, 64), grid) for name in ("left", "right"))
    y = builder.add(kind((left, right), "y"), QuantParams(np.float32(1.0), zero_point=-7))
    assert_exact(builder.build((y,)), samples=8)


@pytest.mark.parametrize("kind", [ops.Add, ops.Sub])
def test_a_tensor_with_itself(kind):
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 2, 2, 3), QuantParams(np.float32(0.1)))
    y = builder.add(kind((x, x), "y"), QuantParams(np.float32(0.15)))
    assert_exact(builder.build((y,)))
