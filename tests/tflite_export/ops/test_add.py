"""ADD end to end."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import ACTIVATIONS, input_grids, log_uniform, output_grids
from tests.tflite_export.harness import assert_exact, exact_law


@st.composite
def add_graphs(draw: st.DrawFn) -> IntegerGraph:
    activation = draw(st.sampled_from(ACTIVATIONS))
    y_grid = draw(output_grids(activation, draw(log_uniform(-8, 2))))
    shape = (1, 3, 2, draw(st.integers(1, 9)))
    builder = GraphBuilder()
    terms = []
    for name in ("left", "right"):
        ratio = draw(log_uniform(-9.9, 7.9))
        grid = draw(input_grids(st.just(float(y_grid.scale) * ratio)))
        terms.append(builder.add_input(name, shape, grid))
    y = builder.add(ops.Add(tuple(terms), "y", activation), y_grid)
    return builder.build((y,))


@exact_law
@given(add_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph, samples=8)


@pytest.mark.parametrize("exponent", [-10, -1, 0, 1, 7])
def test_ratios_that_are_powers_of_two_round_their_ties(exponent):
    builder = GraphBuilder()
    grid = QuantParams(np.float32(2.0**exponent), zero_point=7)
    left, right = (builder.add_input(name, (1, 64), grid) for name in ("left", "right"))
    y = builder.add(ops.Add((left, right), "y"), QuantParams(np.float32(1.0), zero_point=-7))
    assert_exact(builder.build((y,)), samples=8)


def test_a_tensor_added_to_itself():
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 2, 2, 3), QuantParams(np.float32(0.1)))
    y = builder.add(ops.Add((x, x), "y"), QuantParams(np.float32(0.15)))
    assert_exact(builder.build((y,)))
