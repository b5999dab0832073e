"""Quantized kernels inside a float part: int8 constants that a DEQUANTIZE reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_export.file.file_model import FileOperator, FileTensor
from tflite_export.ops.emission import file_operator


def with_codes(
    entry: str,
    codes: FileTensor,
    tensors: Sequence[FileTensor],
    operators: Sequence[FileOperator],
) -> tuple[list[FileTensor], list[FileOperator]]:
    """The part with its float32 input `entry` computed from codes, if any operator reads it.

    A convolution reads its kernel in another layout than Keras has: if TRANSPOSE and RESHAPE alone
    read the kernel, the codes are stored as these would move them. A DEQUANTIZE reads the codes.
    From a table, a GATHER takes int8 rows before the DEQUANTIZE, so that the whole table is never
    in memory as float32.
    """
    readers = [each for each in operators if entry in each.inputs]
    others = [tensor for tensor in tensors if tensor.name != entry]
    if not readers:
        return others, list(operators)
    named = {tensor.name: tensor for tensor in tensors}
    moved = [_moved(each, codes, named) for each in readers]
    if all(each is not None for each in moved):
        return _with_moved_codes(entry, codes, others, operators, moved)
    if not all(_takes_rows(each, entry, codes) for each in readers):
        return [*tensors, codes], [_dequantize(codes, entry), *operators]
    changed: list[FileOperator] = []
    for each in operators:
        if entry not in each.inputs:
            changed.append(each)
            continue
        (output,) = each.outputs
        rows = _rows(codes, f"{output}/codes", named[output].shape)
        inputs = (codes.name, *each.inputs[1:])
        gather = dataclasses.replace(each, version=2, inputs=inputs, outputs=(rows.name,))
        changed += [gather, _dequantize(rows, output)]
        others.append(rows)
    return [*others, codes], changed


def _with_moved_codes(
    entry: str,
    codes: FileTensor,
    tensors: list[FileTensor],
    operators: Sequence[FileOperator],
    moved: Sequence[FileTensor | None],
) -> tuple[list[FileTensor], list[FileOperator]]:
    """The part without the operators that move the kernel. Equal layouts are stored once."""
    layouts: list[tuple[FileTensor, str]] = []  # the codes of a layout, and the tensor they replace
    names: dict[str, str] = {}
    readers = [each for each in operators if entry in each.inputs]
    for reader, found in zip(readers, moved, strict=True):
        (output,) = reader.outputs
        same = [name for held, name in layouts if found is not None and _equal(held, found)]
        names[output] = same[0] if same else output
        if found is not None and not same:
            suffix = f"/{len(layouts)}" if layouts else ""
            layouts.append((dataclasses.replace(found, name=codes.name + suffix), output))
    kept = [
        dataclasses.replace(each, inputs=tuple(names.get(name, name) for name in each.inputs))
        for each in operators
        if entry not in each.inputs
    ]
    for held, output in layouts:
        tensors, kept = with_codes(output, held, tensors, kept)
    return tensors, kept


def _moved(
    operator: FileOperator, codes: FileTensor, tensors: dict[str, FileTensor]
) -> FileTensor | None:
    """The codes as a TRANSPOSE or a RESHAPE leaves them.

    `None` for another operator, and if channels would not lie along one axis.
    """
    if operator.code not in ("TRANSPOSE", "RESHAPE") or codes.data is None:
        return None
    (output,) = operator.outputs
    order = tensors[operator.inputs[1]].data if len(operator.inputs) > 1 else None
    if operator.code == "TRANSPOSE" and order is None:
        return None

    def move(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if operator.code == "TRANSPOSE" and order is not None:
            return np.ascontiguousarray(values.transpose(order.tolist()))
        return values.reshape(tensors[output].shape)

    data, axis = move(codes.data), 0
    if codes.scale.size > 1:
        sizes = [1] * codes.data.ndim
        sizes[codes.axis] = -1
        channels = move(np.broadcast_to(np.arange(codes.scale.size).reshape(sizes), codes.shape))
        axes = [each for each in range(data.ndim) if _counts(channels, each)]
        if not axes:
            return None
        axis = axes[0]
    return dataclasses.replace(codes, shape=data.shape, data=data, axis=axis)


def _counts(channels: npt.NDArray[Any], axis: int) -> bool:
    """Whether the numbers of the channels are 0, 1, 2, ... along an axis, at every place."""
    sizes = [1] * channels.ndim
    sizes[axis] = -1
    return bool(np.all(channels == np.arange(channels.shape[axis]).reshape(sizes)))


def _equal(left: FileTensor, right: FileTensor) -> bool:
    same = (left.shape, left.axis) == (right.shape, right.axis)
    return same and np.array_equal(np.asarray(left.data), np.asarray(right.data))


def _takes_rows(operator: FileOperator, table: str, codes: FileTensor) -> bool:
    """Whether the operator looks up whole rows of the table, so that columns keep their scales."""
    whole = not operator.fields.get("axis") and not operator.fields.get("batchDims")
    looks_up = operator.code == "GATHER" and operator.inputs[0] == table
    of_columns = 0 < codes.axis == len(codes.shape) - 1
    return looks_up and whole and (codes.scale.size == 1 or of_columns)


def _rows(codes: FileTensor, name: str, shape: tuple[int, ...]) -> FileTensor:
    """Rows of a table, on its grid."""
    axis = len(shape) - 1 if codes.axis else 0
    return dataclasses.replace(codes, name=name, shape=shape, axis=axis, data=None)


def _dequantize(codes: FileTensor, output: str) -> FileOperator:
    """A DEQUANTIZE. Per-channel scales need its version 5."""
    return file_operator("DEQUANTIZE", 5 if codes.scale.size > 1 else 2, (codes.name,), output)
