"""`OpExport`: everything that this package knows about one integer op."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_qat.integer import IntegerGraph
from tflite_export.file.stored_graph import WeightStorage
from tflite_export.ops.emission import Emission
from tflite_export.ops.operator_type import OperatorType
from tflite_export.ops.reading import FileReading
from tflite_export.targets import TARGETS, Target

Emitter = Callable[[Any, IntegerGraph], Emission]
LegalityCheck = Callable[[Any, IntegerGraph, Target], None]
ConstantsCheck = Callable[[Any, Any, FileReading], None]

EVERY_TARGET = frozenset(target.family for target in TARGETS.values())
NO_WEIGHTS: tuple[WeightStorage, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpExport:
    """How one integer op is written, checked and read back, and what it costs.

    Every op states each field without a default, even if it says "none". A missing cost would count
    as 0 bytes, and a missing check would let anything pass.

    Attributes:
        emit: `(op, graph) -> Emission`, the op's constants and operators.
        check: `(op, graph, target)`; raises an `ExportError` if the target cannot hold the op or
            would compute it differently.
        check_constants: `(learned op, op in the file's graph, reading)`; raises a
            `VerificationError` if a file that was read back lacks the learned numbers.
        operators: every operator that `emit` or `emit_compact` may write.
        targets: names of the targets that run the op.
        weight_storages: the storages that its weights may have; `NO_WEIGHTS` without weights.
        moves_codes: whether its output holds codes of its inputs, so that nothing is rounded.
        emit_compact: like `emit`, with operators that take less memory in TensorFlow Lite Micro and
            that LiteRT does not run.
        any_batch: whether one call may run several examples.
        column_axis: the axis of its weights that runs over the last axis of its input, used to warn
            of columns that share a grid; `None` if there is no such axis.
    """

    emit: Emitter
    check: LegalityCheck
    check_constants: ConstantsCheck
    operators: tuple[OperatorType, ...]
    targets: frozenset[str]
    weight_storages: tuple[WeightStorage, ...]
    moves_codes: bool
    emit_compact: Emitter | None = None
    any_batch: bool = True
    column_axis: int | None = None


def no_constants(op: Any, legal: Any, reading: FileReading) -> None:
    """The check of an op without learned constants."""
