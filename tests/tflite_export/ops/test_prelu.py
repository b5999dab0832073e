"""PRELU end to end."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import (
    input_grids,
    log_uniform,
    one_op_graph,
    output_grids,
    seeds,
    sides,
)
from tests.tflite_export.harness import assert_exact, exact_law
from tflite_export.errors import ExportError
from tflite_export.legal.legality import check_legal
from tflite_export.targets import TARGETS

pytestmark = pytest.mark.slow_beyond(1)


def prelu_graph(
    slopes: np.ndarray, scale: float, shape: tuple[int, ...], x: QuantParams, y: QuantParams
) -> IntegerGraph:
    learned = ops.QuantizedArray(slopes.astype(np.int8), QuantParams(np.float32(scale)))
    return one_op_graph(lambda _, name: ops.PReLU((name,), "y", learned), shape, x, y)


@st.composite
def prelu_graphs(draw: st.DrawFn) -> IntegerGraph:
    """Slopes per channel, per element or of some axes; also negative ones, and above one."""
    shape = (draw(sides), draw(sides), draw(st.integers(1, 9)))
    shape = shape if draw(st.booleans()) else shape[-1:]
    shared = [draw(st.booleans()) for _ in shape]
    sizes = [1 if one else size for one, size in zip(shared, shape, strict=True)]
    generator = np.random.default_rng(draw(seeds))
    slopes = generator.integers(-127, 127, sizes, endpoint=True)
    x = draw(input_grids())
    y = draw(output_grids("linear", float(x.scale) / draw(log_uniform(-8, 4))))
    return prelu_graph(slopes, draw(log_uniform(-12, 3)), (1, *shape), x, y)


@exact_law
@given(prelu_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph, samples=8)


@pytest.mark.parametrize("exponent", [-3, -1, 0, 1, 3])
def test_powers_of_two_round_their_ties(exponent):
    x, y = QuantParams(np.float32(1.0), 7), QuantParams(np.float32(2.0**-exponent), -7)
    slopes = np.array([-127, -64, -1, 0, 1, 3, 64, 127])
    assert_exact(prelu_graph(slopes, 2.0**-6, (1, 5, 5, 8), x, y), samples=8)


def test_slopes_that_do_not_fit_are_refused():
    grid = QuantParams(np.float32(0.1))
    with pytest.raises(ValueError, match=r"slopes of 'y' do not broadcast.*\(3,\)"):
        prelu_graph(np.ones(3), 1.0, (1, 4, 4, 8), grid, grid)
    with pytest.raises(ValueError, match="do not broadcast"):
        prelu_graph(np.ones((4, 4, 8)), 1.0, (1, 8), grid, grid)


def test_illegal_slopes_and_scales_are_named():
    grid = QuantParams(np.float32(0.1))
    far = prelu_graph(np.ones(8), 1.0, (1, 8), grid, QuantParams(np.float32(1e-4)))
    builder = GraphBuilder()
    several = QuantParams(np.full(8, 0.5, np.float32), axis=0)
    op = ops.PReLU(
        (builder.add_input("x", (1, 8), grid),),
        "y",
        ops.QuantizedArray(np.ones(8, np.int8), several),
    )
    graph = builder.build((builder.add(op, grid),))
    for target in TARGETS.values():
        with pytest.raises(ExportError, match=r"'y' rescales by 1e\+03, outside what"):
            check_legal(far, target)
        with pytest.raises(ExportError, match="'y' need zero point 0 and one scale"):
            check_legal(graph, target)
