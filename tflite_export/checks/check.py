"""`check`: where each operator of a network runs on a target, and how well."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from keras_qat.integer.tables import Table
from tflite_export.arena.preference import PREFERENCES, preferred_storage
from tflite_export.checks import facts
from tflite_export.checks.delegation import on_litert_cpu
from tflite_export.checks.rows import Fact, OperatorCheck
from tflite_export.checks.vela import ACCELERATORS, compile_with_vela
from tflite_export.errors import ExportError
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.file.writer import read_model, write_model
from tflite_export.graph_of import graph_of
from tflite_export.legal.legalize import legalize
from tflite_export.ops.emit_model import emit_model
from tflite_export.targets import target_with
from tflite_export.text_table import fitted_lines, text_table

_Judge = Callable[[FileOperator, FileModel], Fact]

_JUDGES: dict[str, tuple[str, str | None, _Judge | None]] = {
    "litert-cpu": ("litert", None, on_litert_cpu),
    "litert-gpu": ("litert", None, facts.on_gpu),
    "litert-npu": ("litert", None, facts.on_npu),
    "tflm": ("tflm", None, facts.on_tflm),
    "cmsis-nn": ("tflm", "cmsis-nn-m4", facts.on_cmsis_nn),
    "esp32": ("tflm", "esp-nn", facts.on_esp32),
    "ethos-u": ("ethos-u", None, None),
}
CHECKED = tuple(_JUDGES)
"""The targets that `check` knows."""
_ALSO = {
    "litert": "litert-cpu",
    "cmsis-nn-m4": "cmsis-nn",
    "cmsis-nn-m55": "cmsis-nn",
    "esp-nn": "esp32",
}
"""Names of targets and kernels that `export` takes."""


@dataclasses.dataclass(frozen=True)
class Check(Table):
    """Where each operator runs on a target.

    Attributes:
        target: a name of `CHECKED`.
        rows: the operators in the order of the file. A network that the target refuses has one row.
        summary: what holds for the whole file, in words.
    """

    target: str
    rows: tuple[OperatorCheck, ...]
    summary: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether the target runs the network."""
        return all(row.fact.status != "refused" for row in self.rows)

    def render(self) -> str:
        """The table as plain text."""
        table = text_table(self.table_head, self.table_rows)
        return "\n".join([*table, *fitted_lines(self.summary)])

    @property
    def table_head(self) -> tuple[str, ...]:
        """The columns: a row for each operator."""
        return ("operator", "output", self.target, "why", "source")

    @property
    def table_rows(self) -> list[tuple[Any, ...]]:
        """A row for each operator."""
        return [
            (row.operator, row.name, row.fact.status, row.fact.why, _source(row.fact))
            for row in self.rows
        ]

    def to_json(self) -> str:
        """The table as JSON."""
        return json.dumps({**dataclasses.asdict(self), "runs": self.runs}, indent=2)

    def __str__(self) -> str:
        return self.render()


def check(
    model: Any,
    target: str = "litert-cpu",
    *,
    weight_storage: str = "auto",
    accelerator: str = "ethos-u55-128",
    vela: Sequence[str] | None = None,
) -> Check:
    """Says how a target runs each operator: fast, in a plain kernel, slowly, or refused.

    For `"litert-cpu"` each operator is opened in the LiteRT of this machine, and for `"ethos-u"`
    Arm's compiler Vela compiles the file. The other answers are read from sources, with a date.

    Args:
        model: a path of a `.tflite` file or its bytes; or an `IntegerGraph` or a model with
            `to_integer()`, which is written for the target first.
        target: `"litert-cpu"`, `"litert-gpu"`, `"litert-npu"`, `"tflm"`, `"cmsis-nn"`, `"esp32"` or
            `"ethos-u"`. `"litert"` and the names of kernels that `export` takes are also known.
        weight_storage: see `tflite_export.export`.
        accelerator: the NPU for `"ethos-u"`, such as `"ethos-u55-128"` or `"ethos-u85-256"`.
        vela: the command of Vela, if it is in another Python.

    Raises:
        ValueError: an unknown target or accelerator.
        InvalidFileError: the file is no TFLite file, or is damaged.
        ImportError: LiteRT or Vela is not installed.
        RuntimeError: Vela cannot compile the file.

    >>> import numpy as np
    >>> from keras_qat.integer import GraphBuilder, QuantParams, ops
    >>> builder = GraphBuilder()
    >>> x = builder.add_input("x", (1, 4), QuantParams(np.float32(0.1)))
    >>> graph = builder.build((builder.add(ops.Softmax((x,), "y"), ops.SOFTMAX_OUTPUT),))
    >>> [row.fact.status for row in check(graph, "cmsis-nn").rows]
    ['fast']
    """
    target = _ALSO.get(target, target)
    if target not in _JUDGES:
        raise ValueError(f"target must be one of {CHECKED}. Received: {target!r}")
    if accelerator not in ACCELERATORS:
        raise ValueError(f"accelerator must be one of {ACCELERATORS}. Received: {accelerator!r}")
    name, kernels, judge = _JUDGES[target]
    try:
        data = _file(model, name, kernels, weight_storage)
    except ExportError as error:
        fact = Fact("refused", str(error), "tflite_export", "")
        return Check(target, (OperatorCheck("", "", fact),))
    file = read_model(data)
    if judge is not None:
        rows = (OperatorCheck(op.code, op.outputs[0], judge(op, file)) for op in file.operators)
        return Check(target, tuple(rows))
    compiled = compile_with_vela(data, file, accelerator, vela)
    memory = ", ".join(
        f"{size:,} bytes of {kind}" for kind, size in compiled.memory.items() if size
    )
    summary = (
        f"{compiled.on_npu:.0%} of the operators stay on the NPU ({accelerator}). Vela estimates "
        f"{compiled.cycles:,} cycles, {memory}."
    )
    return Check(target, compiled.rows, (summary,))


def _file(model: Any, name: str, kernels: str | None, weight_storage: str) -> bytes:
    if isinstance(model, bytes):
        return model
    if isinstance(model, str | os.PathLike):
        return pathlib.Path(model).read_bytes()
    graph = graph_of(model, planned=True)
    target = target_with(name, kernels)
    storages, _ = preferred_storage(graph, target, weight_storage, PREFERENCES[0])
    return write_model(emit_model(legalize(graph, target, storages)))


def _source(fact: Fact) -> str:
    return f"{fact.source}, {fact.read_on}" if fact.read_on else fact.source
