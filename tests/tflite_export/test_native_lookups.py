"""Operators in the place of tables: only where they compute every entry."""

import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from keras_qat.integer import IntegerGraph, QuantParams, ops
from tests.tflite_export.graphs import input_grids, log_uniform, one_op_graph, random_codes
from tests.tflite_export.harness import exact_law
from tflite_export import plan_memory, verify
from tflite_export.file.writer import write_model
from tflite_export.legal import native_lookups
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target

pytestmark = pytest.mark.slow_beyond(1)

EVERY_CODE = np.arange(-128, 128)
FUNCTIONS = {
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "GELU": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "LOGISTIC": lambda x: 1 / (1 + np.exp(-x)),
    "TANH": np.tanh,
    "LEAKY_RELU": lambda x: np.where(x > 0, x, 0.3 * x),
}
OUTPUT_GRIDS = {"LOGISTIC": QuantParams(np.float32(1 / 256), -128), "TANH": QuantParams(1 / 128)}
NATIVE = {"litert": {"GELU", "LOGISTIC", "TANH"}, "tflm": {"ELU", "LOGISTIC", "TANH"}}


def graph_of(name: str, x_grid: QuantParams, y_grid: QuantParams, columns: int = 16):
    values = FUNCTIONS[name](x_grid.dequantize(EVERY_CODE).astype(np.float64))
    table = y_grid.quantize(values).astype(np.int8)
    return one_op_graph(lambda _, x: ops.Lookup((x,), "y", table), (1, 16, columns), x_grid, y_grid)


def file_of(graph: IntegerGraph, target: str) -> tuple[bytes, set[str]]:
    tuned = get_target(target)
    file = emit_model(legalize(graph, tuned), compact=tuned.compact)
    return write_model(file), {operator.code for operator in file.operators}


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, QuantParams, QuantParams]:
    name = draw(st.sampled_from(list(FUNCTIONS)))
    x_grid = draw(input_grids(log_uniform(-8, -2)))
    free = QuantParams(np.float32(draw(log_uniform(-9, -2))), draw(st.integers(-128, 127)))
    return name, x_grid, OUTPUT_GRIDS.get(name, free)


@exact_law
@given(cases(), st.sampled_from(["litert", "tflm"]))
def test_a_file_is_exact_with_an_operator_or_with_a_table(case, target):
    graph = graph_of(*case)
    data, codes = file_of(graph, target)
    assert codes <= {"CAST", "ADD", "QUANTIZE", "GATHER"} or codes <= NATIVE[target]
    every_code = np.clip(EVERY_CODE, case[1].qmin, case[1].qmax).astype(np.int8)
    for result in verify(graph, data, target, {"x": every_code.reshape(1, 16, 16)}):
        assert result.differing == 0


@pytest.mark.parametrize("target", ["litert", "tflm"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operator_is_taken_where_there_is_one(name, target):
    grid = OUTPUT_GRIDS.get(name, QuantParams(np.float32(0.021), zero_point=-90))
    _, codes = file_of(graph_of(name, QuantParams(np.float32(0.037), 5), grid), target)
    assert (codes == {name}) == (name in NATIVE[target])


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_one_other_entry_needs_the_table(target):
    name = {"litert": "GELU", "tflm": "ELU"}[target]
    x_grid, y_grid = QuantParams(np.float32(0.037), 0, -100, 127), QuantParams(np.float32(0.021))
    graph = graph_of(name, x_grid, y_grid)
    for code, native in ((-101, True), (-100, False), (127, False)):
        table = graph.ops[0].table.copy()
        table[code + 128] ^= 1
        changed = one_op_graph(
            lambda _, x, table=table: ops.Lookup((x,), "y", table), (1, 4), x_grid, y_grid
        )
        data, codes = file_of(changed, target)
        assert (codes == {name}) == native, "codes outside the input's grid never come"
        assert not sum(r.differing for r in verify(changed, data, target, random_codes(changed)))


def test_without_the_runtime_a_table_it_is(monkeypatch):
    graph = graph_of("ELU", QuantParams(np.float32(0.05)), QuantParams(np.float32(0.03)))
    native_lookups._native_function.cache_clear()
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    _, codes = file_of(graph, "tflm")
    assert codes == {"QUANTIZE", "GATHER"}
    native_lookups._native_function.cache_clear()


@pytest.mark.parametrize("name", ["ELU", "LOGISTIC", "TANH"])
def test_the_arena_is_known(name):
    grid = OUTPUT_GRIDS.get(name, QuantParams(np.float32(0.021)))
    graph = graph_of(name, QuantParams(np.float32(0.037)), grid, columns=64)
    plan = plan_memory(graph)
    assert plan.operators == (f"{name} y",)
    assert plan.buffer_bytes == 2 * 16 * 64
    assert plan.arena_bytes == pytest.approx(plan.measured_arena_bytes, rel=0.02)
