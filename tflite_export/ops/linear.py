"""What all ops with integer weights share: constants, legality check and read-back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.accumulators import accumulator_range, leaves_int32
from keras_qat.integer.headroom import real_multiplier
from keras_qat.integer.qparams import INT8_MAX
from tflite_export.errors import FAR_SCALES, ExportError, VerificationError
from tflite_export.file import lookup_table
from tflite_export.file.file_model import FileModel, FileOperator, FileTensor
from tflite_export.file.stored_graph import WeightStorage
from tflite_export.ops.emission import Emission, file_operator
from tflite_export.ops.grids import require_activation
from tflite_export.ops.op_export import EVERY_TARGET, Emitter, OpExport
from tflite_export.ops.operator_type import MicroKernel, OperatorType
from tflite_export.ops.reading import FileReading
from tflite_export.targets import Target

_SMALLEST_WEIGHT_SCALE = 2.0**-119
"""Headroom divides a scale by up to 2**7, and float32 is coarser below 2**-126."""
EVERY_STORAGE: tuple[WeightStorage, ...] = ("int8", "int4", "int2", "lut")
CHANNEL_BYTES = 8
"""Bytes that a kernel of TensorFlow Lite Micro keeps per channel: a multiplier and a shift."""


def emit_linear(
    code: str,
    version: int,
    options: str,
    fields: Mapping[str, Any],
    op: ops.LinearOp,
    graph: IntegerGraph,
) -> Emission:
    """Emits weights with their scales, and the int32 bias on the final scales."""
    input_scale = graph.tensors[op.inputs[0]].qparams.scale
    weight = FileTensor(
        name=f"{op.output}/weight",
        shape=op.weight.values.shape,
        dtype="int8",
        scale=op.weight.qparams.scale.reshape(-1),
        axis=op.weight.qparams.axis or 0,
        data=op.weight.values.astype(np.int8),
    )
    bias = FileTensor(
        name=f"{op.output}/bias",
        shape=op.bias.shape,
        dtype="int32",
        scale=op.bias_scale(input_scale).reshape(-1),
        data=op.integer_bias(input_scale),
    )
    operands = (*op.inputs, weight.name, bias.name)
    return Emission(
        (weight, bias), file_operator(code, version, operands, op.output, options, fields)
    )


def unpacked_int4(operator: FileOperator, file: FileModel) -> Sequence[int]:
    """The scratch of a kernel that unpacks INT4 weights to int8 before it runs, in bytes."""
    weight = file.tensors[operator.inputs[1]]
    return (weight.elements,) if weight.dtype == "int4" else ()


def linear_export(emit: Emitter, operator: OperatorType, column_axis: int) -> OpExport:
    """The entry of an op with integer weights that every target runs, in any storage.

    Args:
        emit, column_axis: see `OpExport`.
        operator: the operator that `emit` writes.
    """
    return OpExport(
        emit=emit,
        check=check_linear,
        check_constants=check_weights_and_bias,
        operators=(operator,),
        targets=EVERY_TARGET,
        weight_storages=EVERY_STORAGE,
        moves_codes=False,
        column_axis=column_axis,
    )


def linear_operator(
    code: str, resolver: str, structure_bytes: int, one_scale_is_free: bool = False
) -> OperatorType:
    """An operator with weights, whose kernel keeps a multiplier and a shift for each channel.

    Args:
        code: see `OperatorType`.
        resolver, structure_bytes, one_scale_is_free: see `MicroKernel`.
    """
    kernel = MicroKernel(
        resolver=resolver,
        structure_bytes=structure_bytes,
        channel_bytes=CHANNEL_BYTES,
        scratch=unpacked_int4,
        one_scale_is_free=one_scale_is_free,
    )
    return OperatorType(code, kernel)


def check_linear(op: ops.LinearOp, graph: IntegerGraph, target: Target) -> None:
    """Requires weights within +-127, and multipliers and accumulators that kernels compute."""
    weight = op.weight
    axes = (op.channel_axis, None) if takes_one_scale(op, target) else (op.channel_axis,)
    if weight.qparams.zero_point != 0 or weight.qparams.axis not in axes:
        raise ExportError(
            f"The weights of {op.output!r} need zero point 0 and one scale per output channel "
            f"(axis {op.channel_axis}). Received: zero_point={weight.qparams.zero_point}, "
            f"axis={weight.qparams.axis}"
        )
    if weight.values.min(initial=0) < -INT8_MAX or weight.values.max(initial=0) > INT8_MAX:
        raise ExportError(
            f"The weights of {op.output!r} must lie within +-127. Use a narrow range. Received: "
            f"{weight.values.min()}..{weight.values.max()}"
        )
    smallest = float(weight.qparams.scale.min())
    if smallest < _SMALLEST_WEIGHT_SCALE:
        raise ExportError(
            f"The weights of {op.output!r} have a scale of {smallest:.3g}, below what runtimes "
            f"take ({_SMALLEST_WEIGHT_SCALE:.3g}). {FAR_SCALES}"
        )
    multiplier = real_multiplier(op, graph)
    x, y = graph.tensors[op.inputs[0]].qparams, graph.tensors[op.output].qparams
    unit = np.broadcast_to(op.bias_scale(x.scale), multiplier.shape)
    largest_multiplier = np.maximum(multiplier, unit / y.scale)  # which float32 rounds up
    outside = multiplier < target.smallest_multiplier
    outside |= (largest_multiplier >= target.multiplier_limit) | (unit < np.finfo(np.float32).tiny)
    if outside.any():
        channel = int(np.argmax(outside))
        raise ExportError(
            f"Channel {channel} of {op.output!r} is rescaled by {multiplier[channel]:.3g}, outside "
            f"what {target.name!r} computes ({target.smallest_multiplier:.3g} to "
            f"{target.multiplier_limit:g}). {FAR_SCALES}"
        )
    low, high = accumulator_range(op, graph)
    largest = np.maximum(-low, high)
    wraps = leaves_int32(largest, multiplier)
    if wraps.any():
        channel = int(np.argmax(wraps))
        raise ExportError(
            f"Channel {channel} of {op.output!r} has an accumulator of up to {largest[channel]:,}, "
            f"which its multiplier of {multiplier[channel]:.3g} takes out of int32: kernels would "
            "wrap, and yield the opposite sign. The range of the output is small against the "
            "values that its weights can yield. Calibrate or train with data that has larger "
            "values there."
        )
    require_activation(op, graph)


def takes_one_scale(op: ops.LinearOp, target: Target) -> bool:
    """Whether the op's kernel rounds alike with one scale for all channels as with equal ones.

    The kernel of TensorFlow Lite Micro for FULLY_CONNECTED then keeps no multiplier for each unit.
    XNNPACK has another kernel for weights with one scale, which is not proven here.
    """
    return target.family == "tflm" and isinstance(op, ops.FullyConnected)


def check_weights_and_bias(op: ops.LinearOp, legal: ops.LinearOp, reading: FileReading) -> None:
    """Checks that the file holds the learned integers times powers of 2, and the graph's bias."""
    _, weight, *_, bias = reading.writer(legal.output).inputs
    _check_weights(op, _weights(reading, weight))
    scale = reading.graph.tensors[legal.inputs[0]].qparams.scale
    _check_bias(legal, reading.tensor(bias), scale)


def _weights(reading: FileReading, name: str) -> FileTensor:
    """The weights as a kernel reads them, decoded if the file has them in a lookup table."""
    stored, decode = reading.tensor(name), reading.find_writer(name)
    if decode is None or decode.code != lookup_table.DECODE_OPERATOR:
        return stored
    indices, tables = (reading.tensor(part).data for part in decode.inputs)
    if indices is None or tables is None:
        raise VerificationError(f"The file has no data for the lookup table of {name!r}.")
    try:
        data = lookup_table.decode(indices, tables, stored.shape, one_table=stored.scale.size == 1)
        return dataclasses.replace(stored, data=data)
    except ValueError as error:
        raise VerificationError(f"The file's lookup table of {name!r}: {error}") from error


def _check_weights(op: ops.LinearOp, stored: FileTensor) -> None:
    """Checks that weights over `2**k` are the learned integers.

    The scales times `2**k` must be the learned scales.
    """
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
        and (
            not stored.scale.size
            or np.array_equal(stored.scale, op.bias_scale(input_scale).reshape(-1))
        )
    )
    if not same:
        raise VerificationError(f"The file's bias of {op.output!r} differs from the graph's.")
