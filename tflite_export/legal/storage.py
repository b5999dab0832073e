"""How a file stores the weights of a layer: int8, two INT4 to a byte, or a lookup table."""

from __future__ import annotations

from collections.abc import Sequence

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.headroom import with_headroom
from keras_qat.integer.storage_sizes import (
    INT4_MAX,
    MAX_INDEX_BITS,
    fits_int4,
    int4_bytes,
    int8_bytes,
)
from tflite_export.errors import ExportError
from tflite_export.file import lookup_table
from tflite_export.file.stored_graph import WeightStorage
from tflite_export.ops.table import export_of
from tflite_export.targets import Target

WEIGHT_STORAGES = ("auto", "int8", "int4", "lut")

_AROUND_A_TABLE = 256
"""Bytes of two more tensors, their buffers, and an operator."""
_DENSE_IN_INT4 = 600
"""Bytes of two RESHAPE operators and their tensors around a 1x1 convolution."""


def check_weight_storage(weight_storage: str, target: Target) -> str:
    """Returns the storage.

    Raises:
        ValueError: the storage is unknown, or the target does not load it.
    """
    if weight_storage not in WEIGHT_STORAGES:
        raise ValueError(
            f"weight_storage must be one of {WEIGHT_STORAGES}. Received: {weight_storage!r}"
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

    A given storage is used where the weights fit in it, and `"int8"` elsewhere. `"auto"` takes the
    smallest storage that holds the same integers as `"int8"`, headroom included. It changes the
    size alone.
    """
    full, grouped = with_headroom(op, graph), _has_groups(op, graph)
    if weight_storage == "auto":
        exact = [each for each in _fitting(full, grouped) if each in target.weight_storages]
        return full, min(exact, key=lambda each: file_bytes(full, each))
    if weight_storage == "int4" and "int4" in _fitting(op, grouped):
        return with_headroom(op, graph, INT4_MAX), "int4"
    few_bits = op.weight_bits <= MAX_INDEX_BITS
    if weight_storage == "lut" and few_bits and "lut" in _fitting(full, grouped):
        return full, "lut"
    return full, "int8"


def file_bytes(op: ops.LinearOp, storage: WeightStorage) -> int:
    """About how many bytes an op's weights add to a file, with the data that describes them."""
    size = op.weight.values.size
    if storage == "int4":
        return int4_bytes(size) + (_DENSE_IN_INT4 if isinstance(op, ops.FullyConnected) else 0)
    if storage == "lut":
        return lookup_table.encoded_bytes(op.weight.values, op.channel_axis) + _AROUND_A_TABLE
    return int8_bytes(size)


def require_faithful(lossy: Sequence[str]) -> None:
    """Raises an `ExportError` if the storage of any layer rounds worse than int8."""
    if lossy:
        raise ExportError(
            "strict=True refuses INT4 weights without room for headroom, in "
            f"{', '.join(map(repr, lossy))}: a kernel that rounds twice would flip more elements "
            "than with int8. Use weight_storage='auto' or 'lut'. No file was written."
        )


def _has_groups(op: ops.LinearOp, graph: IntegerGraph) -> bool:
    channels = graph.tensors[op.inputs[0]].shape[-1]
    return isinstance(op, ops.Conv2D) and op.weight.values.shape[-1] != channels


def _fitting(op: ops.LinearOp, grouped: bool) -> list[WeightStorage]:
    """The storages that this type of op may have and that hold its integers as they are.

    INT4 convolutions have no groups: the kernel of CMSIS-NN ignores groups there, and computes
    other numbers without an error.
    """
    index_bits = lookup_table.index_bits(op.weight.values, op.channel_axis)
    fits: dict[WeightStorage, bool] = {
        "int8": True,
        "int4": fits_int4(op.weight.values) and not grouped,
        "lut": index_bits <= MAX_INDEX_BITS,
    }
    return [each for each in export_of(op).weight_storages if fits[each]]
