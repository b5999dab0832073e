"""`OpExport`: everything that this package knows of one integer op."""

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

EVERY_TARGET = frozenset(TARGETS)
NO_WEIGHTS: tuple[WeightStorage, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpExport:
    """How one integer op gets into a file, and what is known of it there.

    A field without a default has to be stated for every op, also where it says "none": a missing
    cost would count as 0 bytes, and a missing check would let anything pass.

    Attributes:
        emit: `(op, graph) -> Emission`, its constants and operators.
        check: `(op, graph, target)`; raises an `ExportError` for what the target cannot hold or
            would compute in another way.
        check_constants: `(learned op, op in the file's graph, reading)`; raises a
            `VerificationError` if learned numbers are not in a file that was read back.
        operators: every operator that `emit` or `emit_compact` may write, with its arena.
        targets: names of the targets that run the op.
        weight_storages: how its weights may lie in a file; `NO_WEIGHTS` for an op without.
        moves_codes: whether its output holds codes of its inputs, so that nothing is rounded.
        emit_compact: what TensorFlow Lite Micro runs in less memory, and LiteRT does not.
        any_batch: whether one call may run several examples.
        column_axis: the axis of its weights that runs over the last axis of its input, for warnings
            of columns that share a grid; `None` if they say nothing of it.
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
