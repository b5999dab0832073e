"""The table from integer op types to their exports. All knowledge of an op is looked up here."""

from __future__ import annotations

from collections.abc import Iterator

from keras_qat.integer import ops
from tflite_export.errors import ExportError
from tflite_export.ops import (
    argmax,
    arithmetic,
    concatenate,
    conv,
    dense,
    elementwise,
    float_part,
    gather,
    lookup,
    pool,
    prelu,
    resize,
    shape,
    softmax,
    transpose_conv,
)
from tflite_export.ops.boundary import DEQUANTIZE_OPERATOR, QUANTIZE_OPERATOR
from tflite_export.ops.decode import DECODE
from tflite_export.ops.op_export import OpExport
from tflite_export.ops.operator_type import MicroKernel, OperatorType

OP_EXPORTS: dict[type[ops.IntegerOp], OpExport] = {
    ops.Add: arithmetic.ADD,
    ops.ArgMax: argmax.ARG_MAX,
    ops.AveragePool2D: pool.AVERAGE_POOL_2D,
    ops.Concatenate: concatenate.CONCATENATE,
    ops.Conv2D: conv.CONV_2D,
    ops.Crop: shape.CROP,
    ops.DepthwiseConv2D: conv.DEPTHWISE_CONV_2D,
    ops.FloatPart: float_part.FLOAT_PART,
    ops.FloatResult: float_part.FLOAT_RESULT,
    ops.FullyConnected: dense.FULLY_CONNECTED,
    ops.Gather: gather.GATHER,
    ops.InterpolatePixels: resize.INTERPOLATE_PIXELS,
    ops.Lookup: lookup.LOOKUP,
    ops.MaxPool2D: pool.MAX_POOL_2D,
    ops.Maximum: elementwise.MAXIMUM,
    ops.MaximumOfTwo: elementwise.MAXIMUM_OF_TWO,
    ops.Mean: pool.MEAN,
    ops.Minimum: elementwise.MINIMUM,
    ops.MinimumOfTwo: elementwise.MINIMUM_OF_TWO,
    ops.Mul: arithmetic.MUL,
    ops.PReLU: prelu.PRELU,
    ops.Pad: shape.PAD,
    ops.RepeatPixels: resize.REPEAT_PIXELS,
    ops.Reshape: shape.RESHAPE,
    ops.Softmax: softmax.SOFTMAX,
    ops.Sub: arithmetic.SUB,
    ops.Transpose: shape.TRANSPOSE,
    ops.TransposeConv2D: transpose_conv.TRANSPOSE_CONV_2D,
}

WITHOUT_AN_OP = (DECODE, QUANTIZE_OPERATOR, DEQUANTIZE_OPERATOR)
"""Operators around ops: they decode lookup tables, and convert float32 inputs and outputs."""


def export_of(op: ops.IntegerOp) -> OpExport:
    """The entry of an op, by its exact type.

    Raises:
        ExportError: the table has no entry for the type.
    """
    if type(op) not in OP_EXPORTS:
        known = ", ".join(sorted(kind.__name__ for kind in OP_EXPORTS))
        raise ExportError(
            f"Op {op.output!r} has a type that is not in tflite_export.ops.table.OP_EXPORTS, so "
            "neither its operators nor their memory are known. Add it there, or use one of these: "
            f"{known}. Received: {type(op).__name__}"
        )
    return OP_EXPORTS[type(op)]


def runs_on(kind: type[ops.IntegerOp], target: str) -> bool:
    """Whether a target runs ops of that exact type. No target runs an unknown type."""
    return kind in OP_EXPORTS and target in OP_EXPORTS[kind].targets


def operator_types() -> Iterator[OperatorType]:
    """Every operator that a file may have outside of float parts."""
    yield from WITHOUT_AN_OP
    for export in OP_EXPORTS.values():
        yield from export.operators


def micro_kernel(code: str) -> MicroKernel:
    """What TensorFlow Lite Micro needs for an operator.

    Raises:
        ExportError: the needs of the operator are not known. They never count as 0 bytes.
    """
    for kind in operator_types():
        if kind.code == code and kind.micro is not None:
            return kind.micro
    raise ExportError(
        f"Operator {code} is not known in TensorFlow Lite Micro, so neither its memory nor its C++ "
        "method can be stated. Add it to the operators of an entry in "
        "tflite_export.ops.table.OP_EXPORTS."
    )
