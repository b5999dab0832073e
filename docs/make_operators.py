"""Writes `operators.md`: where each operator that this project writes runs, by `check`.

    PYTHONPATH=. python docs/make_operators.py

An operator is judged in the smallest graph that has it. LiteRT and Vela run for it, so the page is
written where both are installed.
"""

from __future__ import annotations

import pathlib

import numpy as np

from keras_qat.integer import IntegerGraph, QuantParams, ops
from keras_qat.integer.storage_sizes import PACKED_BITS
from tests.tflite_export.op_examples import EXAMPLES
from tests.tflite_export.test_native_lookups import FUNCTIONS, OUTPUT_GRIDS, graph_of
from tests.tflite_export.test_packed_dense import dense
from tflite_export import ExportError, check
from tflite_export.checks.check import CHECKED
from tflite_export.checks.rows import Fact
from tflite_export.file.writer import write_model
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import get_target

PATH = pathlib.Path(__file__).parent / "operators.md"

_HEAD = """# Operators

Written by `docs/make_operators.py`; do not edit. Where each operator of a file runs, as
`tflite_export.check` says of the smallest network that has it. For your own network, call
[`check`](guide/export.md#where-operators-run).

| word | meaning |
|---|---|
| fast | a kernel for this processor |
| runs | a plain kernel |
| slow | a kernel that takes several times longer |
| last bit may differ | it runs, and nobody proves its rounding |
| refused | the target cannot run the file |
| not written | files for this target do not have it |

A number leads to the reason and its source, below.

"""
_STORAGES = {"tflm": ("int8", "int4", "lut"), "cmsis-nn": ("int8", "int4", "lut")}
_STORAGES |= {"esp32": ("int8", "lut"), "litert-cpu": ("int8", "int4", "int2")}
_WITH_WEIGHTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
_NOT_HERE = "not written"


def facts(target: str) -> dict[str, Fact]:
    """What is known of each operator on a target; INT4 and INT2 have rows of their own."""
    found: dict[str, Fact] = {}
    for kind, graph in EXAMPLES.items():
        storages = _STORAGES.get(target, ("int8",)) if issubclass(kind, ops.LinearOp) else ("auto",)
        for storage in storages:
            _add(found, graph, target, storage)
    for storage in _STORAGES.get(target, ()):
        _add(found, dense(bits=2, features=8), target, storage)
    if not target.startswith("litert"):  # inputs and outputs of real numbers
        stored = legalize(EXAMPLES[ops.Lookup], get_target("tflm"))
        for compact in (False,) if target == "ethos-u" else (False, True):
            ends = dict.fromkeys(("x", "y"), "float32")
            for row in check(write_model(emit_model(stored, ends, compact)), target).rows:
                found.setdefault(row.operator, row.fact)
    for name in FUNCTIONS:
        grid = OUTPUT_GRIDS.get(name, QuantParams(np.float32(0.021), -90))
        _add(found, graph_of(name, QuantParams(np.float32(0.037), 5), grid), target, "auto")
    return found


def _add(found: dict[str, Fact], graph: IntegerGraph, target: str, storage: str) -> None:
    packed = {name for name in _storages(graph, target, storage) if name in PACKED_BITS}
    for row in check(graph, target, weight_storage=storage).rows:
        named = packed if row.operator in _WITH_WEIGHTS else set()
        code = " with ".join([row.operator, *(name.upper() for name in named)])
        if code:  # a network that the target refuses has none
            found.setdefault(code, row.fact)


def _storages(graph: IntegerGraph, target: str, storage: str) -> set[str]:
    """The storages of weights that a file has."""
    family = get_target("litert" if target.startswith("litert") else "tflm")
    try:
        return set(legalize(graph, family, storage).storage.values())
    except ExportError:
        return set()


def render(by_target: dict[str, dict[str, Fact]]) -> str:
    """The page."""
    codes = sorted({code for found in by_target.values() for code in found})
    reasons: dict[tuple[str, str, str], int] = {}
    lines = [f"| operator | {' | '.join(by_target)} |", "|---" * (1 + len(by_target)) + "|"]
    for code in codes:
        cells = [_cell(found.get(code), reasons) for found in by_target.values()]
        lines.append(f"| {code} | {' | '.join(cells)} |")
    notes = [
        f"{number}. {why.rstrip('.')}. Source: {source}{f', {date}' if date else ''}."
        for (why, source, date), number in reasons.items()
    ]
    return _HEAD + "\n".join([*lines, "", *notes]) + "\n"


def _cell(fact: Fact | None, reasons: dict[tuple[str, str, str], int]) -> str:
    if fact is None:
        return _NOT_HERE
    number = reasons.setdefault((fact.why, fact.source, fact.read_on), len(reasons) + 1)
    return f"{fact.status} ({number})"


if __name__ == "__main__":
    PATH.write_text(render({target: facts(target) for target in CHECKED}))
