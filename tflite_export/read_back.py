"""Proves from the bytes alone that a file holds the learned integers and scales."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, ops
from tflite_export import lookup_table
from tflite_export.errors import VerificationError
from tflite_export.file_model import FileModel, FileOperator, FileTensor
from tflite_export.float_parts import emit_float_part
from tflite_export.storage import StoredGraph


def check_file(learned: IntegerGraph, stored_graph: StoredGraph, file: FileModel) -> None:
    """Compares a file that was read back with the learned and the legalized graph.

    Raises:
        VerificationError: a weight that is not the learned integer times a power of two, or a
            grid, bias or table that is not the graph's.
    """
    legal = stored_graph.graph
    floats = {*file.inputs.values(), *file.outputs.values()}
    for op in legal.ops:
        if isinstance(op, ops.FloatPart):
            floats |= _check_float_part(op, legal, file)
    for name, stored in file.tensors.items():
        if stored.dtype == "float32" and name not in floats:
            raise VerificationError(f"The file computes in float32 inside, at tensor {name!r}.")
    for name, tensor in legal.tensors.items():
        stored = _tensor(file, name)
        grid = tensor.qparams
        scale = grid.scale.reshape(1) if tensor.on_grid else ()
        same = np.array_equal(stored.scale, scale) and (
            stored.zero_point == grid.zero_point and stored.shape == tensor.shape
        )
        if not same or stored.dtype != tensor.dtype:
            raise VerificationError(f"The file states another grid or shape for tensor {name!r}.")
    writers = {name: op for op in file.operators for name in op.outputs}
    for op in legal.ops:
        if op.output not in writers:
            raise VerificationError(f"No operator of the file writes tensor {op.output!r}.")
    for op in learned.ops:
        if isinstance(op, ops.LinearOp):
            legal_op = stored_graph.linear_op(op.output)
            _, weight, *_, bias = writers[legal_op.output].inputs
            _check_weights(op, _weights(file, weight, writers.get(weight)))
            scale = legal.tensors[legal_op.inputs[0]].qparams.scale
            _check_bias(legal_op, _tensor(file, bias), scale)
        if isinstance(op, ops.Lookup) and op.output not in stored_graph.native:
            _check_table(op, _tensor(file, writers[op.output].inputs[0]))
        if isinstance(op, ops.PReLU):
            _check_slopes(op, _tensor(file, writers[op.output].inputs[1]))


def _weights(file: FileModel, name: str, decode: FileOperator | None) -> FileTensor:
    """The weights as a kernel reads them; those of a lookup table are decoded here."""
    stored = _tensor(file, name)
    if decode is None or decode.code != lookup_table.DECODE_OPERATOR:
        return stored
    indices, tables = (_tensor(file, part).data for part in decode.inputs)
    if indices is None or tables is None:
        raise VerificationError(f"The file has no data for the lookup table of {name!r}.")
    try:
        return dataclasses.replace(stored, data=lookup_table.decode(indices, tables, stored.shape))
    except ValueError as error:
        raise VerificationError(f"The file's lookup table of {name!r}: {error}") from error


def _check_weights(op: ops.LinearOp, stored: FileTensor) -> None:
    """Weights over `2**k` are the learned integers, and scales times `2**k` the learned scales."""
    learned = op.weight
    channels = learned.values.shape[op.channel_axis]
    learned_scale = np.broadcast_to(learned.qparams.scale, channels).astype(np.float64)
    mantissa, exponent = np.frexp(learned_scale / stored.scale.astype(np.float64))
    if np.any(mantissa != 0.5) or stored.zero_point != 0 or stored.data is None:
        raise VerificationError(
            f"The file's weight scales of {op.output!r} are not the learned ones over powers of 2."
        )
    shape = [1] * learned.values.ndim
    shape[op.channel_axis] = -1
    power = np.ldexp(1.0, exponent - 1).reshape(shape)
    held = stored.data.reshape(learned.values.shape) / power
    wrong = int(np.count_nonzero(held != learned.values))
    if wrong or stored.data.min(initial=0) < -127:
        raise VerificationError(
            f"The file's weights of {op.output!r} are not the learned integers: {wrong} of "
            f"{learned.values.size} differ."
        )


def _check_bias(op: ops.LinearOp, stored: FileTensor, input_scale: npt.NDArray[np.float32]) -> None:
    same = stored.data is not None and (
        np.array_equal(stored.data, op.integer_bias(input_scale))
        and (not stored.scale.size or np.array_equal(stored.scale, op.bias_scale(input_scale)))
    )
    if not same:
        raise VerificationError(f"The file's bias of {op.output!r} is not that of the graph.")


def _check_float_part(op: ops.FloatPart, graph: IntegerGraph, file: FileModel) -> set[str]:
    """The tensors inside the part; constants and operators are those of its own file."""
    stated = emit_float_part(op, graph)
    for tensor in stated.constants:
        stored = _tensor(file, tensor.name)
        same = (stored.dtype, stored.shape) == (tensor.dtype, tensor.shape)
        same = same and np.array_equal(stored.scale, tensor.scale)
        same = same and (stored.zero_point, stored.axis) == (tensor.zero_point, tensor.axis)
        if not same or not _same_data(stored.data, tensor.data):
            raise VerificationError(
                f"The file's tensor {tensor.name!r} is not that of the float part {op.output!r}."
            )
    operators = [(each.code, each.inputs, each.outputs) for each in file.operators]
    for each in (*stated.before, stated.operator):
        if (each.code, each.inputs, each.outputs) not in operators:
            raise VerificationError(
                f"The file has no operator {each.code} of the float part {op.output!r}."
            )
    return {tensor.name for tensor in stated.constants}


def _same_data(stored: npt.NDArray[Any] | None, stated: npt.NDArray[Any] | None) -> bool:
    if stored is None or stated is None:
        return stored is stated
    return stored.tobytes() == stated.tobytes()


def _check_table(op: ops.Lookup, stored: FileTensor) -> None:
    if stored.data is None or not np.array_equal(stored.data, op.table):
        raise VerificationError(f"The file's table of {op.output!r} is not that of the graph.")


def _check_slopes(op: ops.PReLU, stored: FileTensor) -> None:
    learned = op.slopes
    same = stored.data is not None and np.array_equal(stored.data, learned.values)
    if not same or stored.scale != learned.qparams.scale or stored.zero_point != 0:
        raise VerificationError(f"The file's slopes of {op.output!r} are not the learned ones.")


def _tensor(file: FileModel, name: str) -> FileTensor:
    if name not in file.tensors:
        raise VerificationError(f"The file has no tensor {name!r}.")
    return file.tensors[name]
