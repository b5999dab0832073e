"""Tables of 256 values end to end, in the form of every runtime and in that of TFLM alone."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import input_grids, log_uniform, one_op_graph, seeds, sides
from tests.tflite_export.harness import assert_exact, exact_law
from tflite_export import VerificationError, plan_memory, verify
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target

pytestmark = pytest.mark.slow_beyond(1)

GRID = QuantParams(np.float32(0.1))
EVERY_CODE = np.arange(-128, 128, dtype=np.int8)


@st.composite
def tables(draw: st.DrawFn, grid: QuantParams) -> np.ndarray:
    """Any entries on a grid; sometimes all the same, or only its ends."""
    generator = np.random.default_rng(draw(seeds))
    low, high = draw(st.sampled_from([(grid.qmin, grid.qmax), (grid.qmin,) * 2, (grid.qmax,) * 2]))
    if draw(st.booleans()):
        return generator.choice(np.array([low, high], np.int8), 256)
    return generator.integers(low, high, 256, dtype=np.int8, endpoint=True)


@st.composite
def lookup_graphs(draw: st.DrawFn) -> IntegerGraph:
    shape = (1, *draw(st.sampled_from([(), (3,), (2, 2)])), draw(st.integers(1, 9)))
    x_grid, y_grid = (draw(input_grids(log_uniform(-30, 30))) for _ in range(2))
    table = draw(tables(y_grid))
    return one_op_graph(lambda _, x: ops.Lookup((x,), "y", table), shape, x_grid, y_grid)


@exact_law
@given(lookup_graphs())
def test_every_runtime_computes_the_graph(graph):
    assert_exact(graph)


@st.composite
def chains(draw: st.DrawFn) -> IntegerGraph:
    """Two tables in a row, and a branch that reads the tensor between them."""
    builder = GraphBuilder()
    height, channels = draw(sides), draw(st.integers(1, 5))
    x = builder.add_input("x", (1, height, 3, channels), draw(input_grids()))
    grids = [draw(input_grids()) for _ in range(2)]
    first = builder.add(ops.Lookup((x,), "first", draw(tables(grids[0]))), grids[0])
    second = builder.add(ops.Lookup((first,), "second", draw(tables(grids[1]))), grids[1])
    pooled = builder.add(ops.MaxPool2D((first,), "pooled", (1, 2), (1, 1)), grids[0])
    return builder.build((second, pooled))


@exact_law
@given(chains())
def test_chains_and_branches(graph):
    assert_exact(graph)


@pytest.mark.parametrize("zero_point", [-128, -1, 0, 127])
def test_every_code(zero_point):
    grid = QuantParams(np.float32(0.037), zero_point=zero_point)
    table = np.random.default_rng(0).permutation(EVERY_CODE)
    graph = one_op_graph(lambda _, x: ops.Lookup((x,), "y", table), (1, 16, 16, 1), grid)
    assert_exact(graph, samples=8)
    file = emit_model(legalize(graph, get_target("litert")))
    from tflite_export.file.runtimes import run_litert

    codes = {"x": EVERY_CODE.reshape(1, 16, 16, 1)}
    for reference in (False, True):
        values = run_litert(write_model(file), file, codes, reference)["y"]
        np.testing.assert_array_equal(values.ravel(), table)


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_another_table_in_the_file_is_noticed(target):
    graph, other = (
        one_op_graph(lambda _, x, table=table: ops.Lookup((x,), "y", table), (1, 4), GRID)
        for table in (EVERY_CODE, EVERY_CODE[::-1].copy())
    )
    tuned = get_target(target)
    data = write_model(emit_model(legalize(other, tuned), compact=tuned.compact))
    with pytest.raises(VerificationError, match="table of 'y' differs from the graph's"):
        verify(graph, data, target, {"x": np.zeros((1, 4), np.int8)})


def test_the_arena_holds_one_wide_tensor():
    shape = (1, 16, 16, 8)
    graph = one_op_graph(lambda _, x: ops.Lookup((x,), "y", EVERY_CODE), shape, GRID)
    plan = plan_memory(graph)
    assert plan.buffer_bytes == 5 * 16 * 16 * 8
    assert plan.arena_bytes == pytest.approx(plan.measured_arena_bytes, rel=0.02)
