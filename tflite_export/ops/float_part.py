"""FLOAT_PART: the operators of the part's own file, between DEQUANTIZE and QUANTIZE."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN
from tflite_export.errors import ExportError, VerificationError
from tflite_export.file.file_model import FileModel, FileOperator, FileTensor
from tflite_export.file.writer import read_model
from tflite_export.ops.boundary import DEQUANTIZE_OPERATOR, QUANTIZE_OPERATOR
from tflite_export.ops.emission import Emission, file_operator
from tflite_export.ops.grids import require_range
from tflite_export.ops.op_export import NO_WEIGHTS, OpExport
from tflite_export.ops.reading import FileReading
from tflite_export.targets import Target


def network_of(op: ops.FloatPart) -> FileModel:
    """The content of a float part's own file.

    Raises:
        ExportError: the file has control flow, or is not a TFLite file.
    """
    try:
        return read_model(op.file.tobytes())
    except ValueError as error:
        raise ExportError(
            f"The float layers {', '.join(map(repr, op.layers))} cannot be written into the file: "
            "they have more than one list of operators. A recurrent layer is a loop: set "
            f"unroll=True, replace it, or split the model there. {error}"
        ) from error


def emit_float_part(op: ops.FloatPart, graph: IntegerGraph) -> Emission:
    """A DEQUANTIZE for each input on a grid, the part's own operators, and a QUANTIZE.

    A quantized kernel is an int8 constant that a DEQUANTIZE reads. From a table, a GATHER takes
    int8 rows before the DEQUANTIZE, so that the whole table is never in memory as float32.
    """
    part = network_of(op)
    names = {name: f"{inside(op)}{index}" for index, name in enumerate(part.tensors)}
    names[""] = ""  # an optional input that an operator leaves out
    places = list(part.inputs.values())
    entries = dict(zip(places, op.inputs, strict=False))
    raw = {entry: x for entry, x in entries.items() if not graph.tensors[x].on_grid}
    names |= raw
    weights = dict(zip(places[len(entries) :], op.weights, strict=True))
    tensors = [
        dataclasses.replace(tensor, name=names[name])
        for name, tensor in part.tensors.items()
        if name not in raw
    ]
    operators = [
        dataclasses.replace(
            each,
            inputs=tuple(names[name] for name in each.inputs),
            outputs=tuple(names[name] for name in each.outputs),
        )
        for each in part.operators
    ]
    dequantize = [
        file_operator("DEQUANTIZE", 2, (x,), names[entry])
        for entry, x in entries.items()
        if entry not in raw
    ]
    for entry, weight in weights.items():
        codes = _constant(weight_tensor(op, weight), weight.array)
        tensors, operators = _with_codes(names[entry], codes, tensors, operators)
    (result,) = part.outputs.values()
    quantize = file_operator("QUANTIZE", 1, (names[result],), op.output)
    return Emission(tuple(tensors), quantize, (*dequantize, *operators))


def inside(op: ops.FloatPart) -> str:
    """The prefix of the names of all tensors inside the part."""
    return f"{op.output}/float/"


def weight_tensor(op: ops.FloatPart, weight: ops.FloatWeight) -> str:
    """The name of the constant that holds the codes of a kernel."""
    return f"{inside(op)}weights/{weight.name}"


def _constant(name: str, weight: ops.QuantizedArray) -> FileTensor:
    codes, grid = weight.values, weight.qparams
    return FileTensor(
        name, codes.shape, "int8", grid.scale.reshape(-1), axis=grid.axis or 0, data=codes
    )


def _with_codes(
    entry: str,
    codes: FileTensor,
    tensors: Sequence[FileTensor],
    operators: Sequence[FileOperator],
) -> tuple[list[FileTensor], list[FileOperator]]:
    """The part with its float32 input `entry` computed from codes, if any operator reads it."""
    readers = [each for each in operators if entry in each.inputs]
    others = [tensor for tensor in tensors if tensor.name != entry]
    if not readers:
        return others, list(operators)
    if not all(_takes_rows(each, entry, codes) for each in readers):
        return [*tensors, codes], [_dequantize(codes, entry), *operators]
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    changed: list[FileOperator] = []
    for each in operators:
        if entry not in each.inputs:
            changed.append(each)
            continue
        (output,) = each.outputs
        rows = _rows(codes, f"{output}/codes", shapes[output])
        inputs = (codes.name, *each.inputs[1:])
        gather = dataclasses.replace(each, version=2, inputs=inputs, outputs=(rows.name,))
        changed += [gather, _dequantize(rows, output)]
        others.append(rows)
    return [*others, codes], changed


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


def _check(op: ops.FloatPart, graph: IntegerGraph, target: Target) -> None:
    """Requires an output grid of all of int8, because a QUANTIZE saturates at int8's ends."""
    network_of(op)
    require_range(op, graph, (INT8_MIN, INT8_MAX))


def _check_constants(op: ops.FloatPart, legal: ops.FloatPart, reading: FileReading) -> None:
    """Checks that the file has the constants and operators of the part's own file."""
    stated = emit_float_part(op, reading.graph)
    for tensor in stated.constants:
        stored = reading.tensor(tensor.name)
        same = (stored.dtype, stored.shape) == (tensor.dtype, tensor.shape)
        same = same and np.array_equal(stored.scale, tensor.scale)
        same = same and (stored.zero_point, stored.axis) == (tensor.zero_point, tensor.axis)
        if not same or not _same_data(stored.data, tensor.data):
            raise VerificationError(
                f"The file's tensor {tensor.name!r} differs from the float part {op.output!r}."
            )
    operators = [(each.code, each.inputs, each.outputs) for each in reading.file.operators]
    for each in (*stated.before, stated.operator):
        if (each.code, each.inputs, each.outputs) not in operators:
            raise VerificationError(
                f"The file has no operator {each.code} of the float part {op.output!r}."
            )


def _same_data(stored: npt.NDArray[Any] | None, stated: npt.NDArray[Any] | None) -> bool:
    if stored is None or stated is None:
        return stored is stated
    return stored.tobytes() == stated.tobytes()


FLOAT_PART = OpExport(
    emit=emit_float_part,
    check=_check,
    check_constants=_check_constants,
    operators=(DEQUANTIZE_OPERATOR, QUANTIZE_OPERATOR),  # and those in the part's own file
    targets=frozenset({"litert"}),
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
    any_batch=False,
)
