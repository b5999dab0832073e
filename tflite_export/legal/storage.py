"""How a file stores weights: int8, two INT4 or four INT2 to a byte, or a lookup table."""

from __future__ import annotations

from collections.abc import Sequence

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.headroom import with_headroom
from keras_qat.integer.storage_sizes import (
    MAX_INDEX_BITS,
    PACKED_BITS,
    STORED_MAX,
    fits,
    int8_bytes,
    packed_bytes,
)
from tflite_export.errors import ExportError
from tflite_export.file import lookup_table
from tflite_export.file.stored_graph import WeightStorage
from tflite_export.ops.table import export_of
from tflite_export.targets import Target

WEIGHT_STORAGES = ("auto", "int8", "int4", "int2", "lut")

PACKED_IN_LITERT = (ops.FullyConnected,)
"""The ops for which XNNPACK has kernels with INT4 and INT2 weights."""
_OR_WIDER: dict[str, tuple[WeightStorage, ...]] = {"int4": ("int4",), "int2": ("int2", "int4")}
"""The storages that are tried for a given one, the narrowest first."""
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

    A given storage is used where the weights fit in it, and `"int8"` elsewhere. Weights that do not
    fit in `"int2"` may fit in `"int4"`. `"auto"` takes the
    smallest storage that holds the same integers as `"int8"`, headroom included. It changes the
    size alone.
    """
    if weight_storage == "auto":
        full = with_headroom(op, graph)
        exact = [each for each in _fitting(full, graph, target) if each in target.auto_storages]
        return full, min(exact, key=lambda each: file_bytes(full, each))
    for packed in _OR_WIDER.get(weight_storage, ()):
        found, storage = store_as(op, graph, packed, target)
        if storage == packed:
            return found, storage
    in_table = weight_storage == "lut" and op.weight_bits <= MAX_INDEX_BITS
    return store_as(op, graph, "lut" if in_table else "int8", target)


def store_as(
    op: ops.LinearOp, graph: IntegerGraph, storage: WeightStorage, target: Target
) -> tuple[ops.LinearOp, WeightStorage]:
    """The op in this storage, or in `"int8"` if the weights do not fit in it."""
    if storage in PACKED_BITS and storage in _fitting(op, graph, target):
        return with_headroom(op, graph, STORED_MAX[storage]), storage
    full = with_headroom(op, graph)
    in_table = storage == "lut" and storage in _fitting(full, graph, target)
    return full, "lut" if in_table else "int8"


def file_bytes(op: ops.LinearOp, storage: WeightStorage) -> int:
    """About how many bytes an op's weights add to a file, with the data that describes them."""
    size = op.weight.values.size
    if storage in PACKED_BITS:
        around = _DENSE_IN_INT4 if isinstance(op, ops.FullyConnected) else 0
        return packed_bytes(size, PACKED_BITS[storage]) + around
    if storage == "lut":
        return (
            lookup_table.encoded_bytes(op.weight.values, op.weight.qparams.axis) + _AROUND_A_TABLE
        )
    return int8_bytes(size)


def require_faithful(lossy: Sequence[str]) -> None:
    """Raises an `ExportError` if the storage of any layer rounds worse than int8."""
    if lossy:
        raise ExportError(
            "strict=True refuses INT4 weights without room for headroom, in "
            f"{', '.join(map(repr, lossy))}: a kernel that rounds twice would flip more elements "
            "than with int8. Use weight_storage='auto' or 'lut'. No file was written."
        )


def _runs_packed(op: ops.LinearOp, graph: IntegerGraph, target: Target, bits: int) -> bool:
    """Whether the fast kernels of a target compute the op with weights of 4 or 2 bits.

    XNNPACK has kernels for Dense layers whose rows of weights are whole bytes. CMSIS-NN ignores the
    groups of a convolution there, and computes other numbers without an error.
    """
    columns = op.weight.values.shape[-1]
    if target.family == "litert":
        return isinstance(op, PACKED_IN_LITERT) and columns * bits % 8 == 0
    grouped = isinstance(op, ops.Conv2D) and columns != graph.tensors[op.inputs[0]].shape[-1]
    return bits == PACKED_BITS["int4"] and not grouped


def _fitting(op: ops.LinearOp, graph: IntegerGraph, target: Target) -> list[WeightStorage]:
    """The storages that this type of op may have and that hold its integers as they are."""
    index_bits = lookup_table.index_bits(op.weight.values, op.weight.qparams.axis)
    held: dict[WeightStorage, bool] = {
        "int8": True,
        "int4": fits(op.weight.values, "int4") and _runs_packed(op, graph, target, 4),
        "int2": fits(op.weight.values, "int2") and _runs_packed(op, graph, target, 2),
        "lut": index_bits <= MAX_INDEX_BITS,
    }
    return [each for each in export_of(op).weight_storages if held[each]]
