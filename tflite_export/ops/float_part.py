"""FLOAT_PART: the operators of the part's own file, between DEQUANTIZE and QUANTIZE.

FLOAT_RESULT: the same without QUANTIZE, as its output is on no grid.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN
from tflite_export.errors import ExportError, VerificationError
from tflite_export.file.file_model import FileModel, FileTensor
from tflite_export.file.writer import read_model
from tflite_export.ops.boundary import DEQUANTIZE_OPERATOR, QUANTIZE_OPERATOR
from tflite_export.ops.emission import Emission, file_operator, int32_constant
from tflite_export.ops.float_weights import with_codes
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

    A `FloatResult` has no QUANTIZE: its last operator writes its output. A quantized kernel is an
    int8 constant that a DEQUANTIZE reads, see `with_codes`.
    """
    part = network_of(op)
    names = {name: f"{inside(op)}{index}" for index, name in enumerate(part.tensors)}
    names[""] = ""  # an optional input that an operator leaves out
    places = list(part.inputs.values())
    entries = dict(zip(places, op.inputs, strict=False))
    raw = {entry: x for entry, x in entries.items() if not graph.tensors[x].on_grid}
    names |= raw
    (result,) = part.outputs.values()
    rounds = op.output_dtype == "int8"
    in_graph = {*raw.values()}
    if not rounds and result not in entries:
        names[result] = op.output
        in_graph.add(op.output)
    weights = dict(zip(places[len(entries) :], op.weights, strict=True))
    tensors = [
        dataclasses.replace(tensor, name=names[name])
        for name, tensor in part.tensors.items()
        if names[name] not in in_graph
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
        tensors, operators = with_codes(names[entry], codes, tensors, operators)
    if rounds:
        operators.append(file_operator("QUANTIZE", 1, (names[result],), op.output))
    elif result in entries:  # a part that changes nothing, such as a Dropout
        sizes = graph.tensors[op.output].shape
        shape = int32_constant(f"{inside(op)}shape", sizes)
        operands, fields = (names[result], shape.name), {"newShape": list(sizes)}
        tensors.append(shape)
        operators.append(file_operator("RESHAPE", 1, operands, op.output, "ReshapeOptions", fields))
    *before, last = operators
    read = {name for each in operators for name in (*each.inputs, *each.outputs)}
    kept = tuple(tensor for tensor in tensors if tensor.name in read)
    return Emission(kept, last, (*dequantize, *before))


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


def _check_result(op: ops.FloatPart, graph: IntegerGraph, target: Target) -> None:
    network_of(op)


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
FLOAT_RESULT = dataclasses.replace(
    FLOAT_PART, check=_check_result, operators=(DEQUANTIZE_OPERATOR,)
)
