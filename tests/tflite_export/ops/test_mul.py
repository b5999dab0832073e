"""MUL end to end."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops, run
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
def mul_graphs(draw: st.DrawFn) -> IntegerGraph:
    activation = draw(st.sampled_from(ACTIVATIONS))
    builder = GraphBuilder()
    grids = [draw(input_grids()) for _ in range(2)]
    product = float(grids[0].scale) * float(grids[1].scale)
    y_grid = draw(output_grids(activation, product / draw(log_uniform(-15.9, 7.9))))
    factors = [
        builder.add_input(name, shape, grid)
        for name, shape, grid in zip(
            ("left", "right"), draw(broadcast_shapes()), grids, strict=True
        )
    ]
    y = builder.add(ops.Mul(tuple(factors), "y", activation), y_grid)
    return builder.build((y,))


@exact_law
@given(mul_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph, samples=8)


@pytest.mark.parametrize(
    ("left", "right", "output", "product"),
    [
        (0.2066127210855484, 0.14889870584011078, 0.004557684063911438, 2),
        (0.009513885714113712, 0.02760760299861431, 0.0004945397959090769, 225),
        (0.5169499516487122, 0.20165857672691345, 0.18347540497779846, 198),
    ],
)
def test_a_multiplier_that_is_rounded_to_float32_moves_a_tie(left, right, output, product):
    """LiteRT's reference kernel takes the multiplier in float32, TFLM in float64."""
    builder = GraphBuilder()
    code = product - 128
    x = builder.add_input("x", (1, 2), QuantParams(np.float32(left), -128, code, code))
    one = builder.add_input("one", (1, 2), QuantParams(np.float32(right), 0, 1, 1))
    y = builder.add(ops.Mul((x, one), "y"), QuantParams(np.float32(output)))
    graph = builder.build((y,))
    assert_exact(graph)
    inputs = {"x": np.full((1, 2), code, np.int8), "one": np.ones((1, 2), np.int8)}
    tflm, litert = (run(graph, inputs, name)["y"] for name in ("tflm", "litert_ref"))
    assert np.all(np.abs(tflm - litert) == 1)


@pytest.mark.parametrize("exponent", [-16, -9, -1, 0, 1, 7])
def test_multipliers_that_are_powers_of_two_round_their_ties(exponent):
    builder = GraphBuilder()
    grid = QuantParams(np.float32(1.0), zero_point=7)
    left, right = (builder.add_input(name, (1, 64), grid) for name in ("left", "right"))
    output = QuantParams(np.float32(2.0**-exponent), zero_point=-7)
    y = builder.add(ops.Mul((left, right), "y"), output)
    assert_exact(builder.build((y,)), samples=8)


def test_a_tensor_multiplied_by_itself():
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 2, 2, 3), QuantParams(np.float32(0.1), zero_point=-3))
    y = builder.add(ops.Mul((x, x), "y"), QuantParams(np.float32(0.15)))
    assert_exact(builder.build((y,)))
