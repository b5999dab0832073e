"""How the weights of a layer lie in a file: int8, two INT4 to a byte, or a lookup table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.headroom import with_headroom
from keras_qat.integer.storage_sizes import (
    INT4_MAX,
    MAX_INDEX_BITS,
    fits_int4,
    int4_bytes,
    int8_bytes,
)
from tflite_export import lookup_table
from tflite_export.errors import ExportError
from tflite_export.file_model import FileOperator
from tflite_export.targets import Target

WeightStorage = Literal["int8", "int4", "lut"]

WEIGHT_STORAGES = ("auto", "int8", "int4", "lut")

_AROUND_A_TABLE = 256
"""Bytes of two more tensors, their buffers, and an operator."""
_DENSE_IN_INT4 = 600
"""Bytes of two RESHAPE operators and their tensors around a 1x1 convolution."""


@dataclasses.dataclass(frozen=True, eq=False)
class StoredGraph:
    """A graph as a file states it.

    Attributes:
        graph: its weights are the integers that kernels multiply with.
        storage: of the weights of linear ops, by their outputs; int8 for one that is not there.
        native: operators that compute a table on their own, by their outputs.
    """

    graph: IntegerGraph
    storage: Mapping[str, WeightStorage] = dataclasses.field(default_factory=dict)
    native: Mapping[str, FileOperator] = dataclasses.field(default_factory=dict)

    def linear_op(self, output: str) -> ops.LinearOp:
        """The op with weights that a learned op of that output became."""
        names = (output, convolution_of(output))
        linear = (op for op in self.graph.ops if isinstance(op, ops.LinearOp))
        (found,) = (op for op in linear if op.output in names)
        return found


def convolution_of(output: str) -> str:
    """The tensor that a Dense layer's convolution writes, before it gets the layer's shape."""
    return f"{output}/convolution"


def check_weight_storage(weight_storage: str, target: Target) -> str:
    """The storage itself.

    Raises:
        ValueError: an unknown one, or one that the target does not load.
    """
    if weight_storage not in WEIGHT_STORAGES:
        raise ValueError(
            f"weight_storage is one of {WEIGHT_STORAGES}. Received: {weight_storage!r}"
        )
    if weight_storage not in ("auto", *target.weight_storages):
        raise ValueError(
            f"Target {target.name!r} loads weights as {', '.join(target.weight_storages)}. "
            f"Received: weight_storage={weight_storage!r}"
        )
    return weight_storage


def store(
    op: ops.LinearOp, graph: IntegerGraph, weight_storage: str, target: Target
) -> tuple[ops.LinearOp, WeightStorage]:
    """The op with the integers that its storage holds, and that storage.

    A storage that is asked for is used wherever the weights fit in it, `"int8"` elsewhere.
    `"auto"` takes the smallest that holds the very integers of `"int8"`, headroom included, so
    that it changes nothing but the size.
    """
    full = with_headroom(op, graph)
    if weight_storage == "auto":
        return full, min(_exact_storages(full, target), key=lambda each: file_bytes(full, each))
    if weight_storage == "int4" and _runs_in_int4(op):
        return with_headroom(op, graph, INT4_MAX), "int4"
    few_bits = op.weight_bits <= MAX_INDEX_BITS
    if weight_storage == "lut" and few_bits and _fits_table(full):
        return full, "lut"
    return full, "int8"


def file_bytes(op: ops.LinearOp, storage: WeightStorage) -> int:
    """What the weights of an op add to a file, about: data, and what describes them."""
    size = op.weight.values.size
    if storage == "int4":
        return int4_bytes(size) + (_DENSE_IN_INT4 if isinstance(op, ops.FullyConnected) else 0)
    if storage == "lut":
        return lookup_table.encoded_bytes(op.weight.values, op.channel_axis) + _AROUND_A_TABLE
    return int8_bytes(size)


def require_faithful(lossy: Sequence[str]) -> None:
    """Raises an `ExportError` if the storage of any layer leaves less room than int8 does."""
    if lossy:
        raise ExportError(
            "strict=True refuses INT4 weights that leave no room for roundings, in "
            f"{', '.join(map(repr, lossy))}: a kernel that rounds twice would move more elements "
            "than it does with int8. Use weight_storage='auto' or 'lut'. No file was written."
        )


def _exact_storages(op: ops.LinearOp, target: Target) -> list[WeightStorage]:
    """Those that hold the op's integers as they are."""
    fitting: dict[WeightStorage, bool] = {
        "int8": True,
        "int4": _runs_in_int4(op),
        "lut": _fits_table(op),
    }
    return [each for each, fits in fitting.items() if fits and each in target.weight_storages]


def _runs_in_int4(op: ops.LinearOp) -> bool:
    """TensorFlow Lite Micro has no TRANSPOSE_CONV with INT4 weights."""
    return not isinstance(op, ops.TransposeConv2D) and fits_int4(op.weight.values)


def _fits_table(op: ops.LinearOp) -> bool:
    return lookup_table.index_bits(op.weight.values, op.channel_axis) <= MAX_INDEX_BITS
