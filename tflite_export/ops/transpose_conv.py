"""TRANSPOSE_CONV."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence

from keras_qat.integer import IntegerGraph, ops
from tflite_export.errors import ExportError
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.ops.emission import Emission, int32_constant
from tflite_export.ops.linear import (
    CHANNEL_BYTES,
    check_linear,
    check_weights_and_bias,
    emit_linear,
)
from tflite_export.ops.op_export import EVERY_TARGET, OpExport
from tflite_export.ops.operator_type import MicroKernel, OperatorType
from tflite_export.ops.option_fields import fused_activation, window_fields
from tflite_export.targets import Target


def _emit(op: ops.TransposeConv2D, graph: IntegerGraph) -> Emission:
    """The first operand is the output's shape. It is a constant, so the batch stays 1."""
    size = int32_constant(f"{op.output}/size", graph.tensors[op.output].shape)
    fields = {**window_fields(op), **fused_activation(op, graph)}
    linear = emit_linear("TRANSPOSE_CONV", 4, "TransposeConvOptions", fields, op, graph)
    source, weight, bias = linear.operator.inputs
    operator = dataclasses.replace(linear.operator, inputs=(size.name, weight, source, bias))
    return Emission((*linear.constants, size), operator)


def _check(op: ops.TransposeConv2D, graph: IntegerGraph, target: Target) -> None:
    """Refuses small windows: XNNPACK leaves them to another kernel, which rounds differently."""
    window = op.window
    if op.padding == "same" and any(map(operator.lt, window.size, window.strides)):
        raise ExportError(
            f"TransposeConv2D {op.output!r} with padding 'same' needs a window that is no smaller "
            f"than its strides. Received: window {window.size}, strides {window.strides}"
        )
    check_linear(op, graph, target)


def _sums(operator: FileOperator, file: FileModel) -> Sequence[int]:
    """Bytes of a 32-bit sum for every element of the output."""
    return (4 * file.tensors[operator.outputs[0]].elements,)


TRANSPOSE_CONV_OPERATOR = OperatorType(
    "TRANSPOSE_CONV",
    MicroKernel(
        resolver="AddTransposeConv",
        structure_bytes=96,
        channel_bytes=CHANNEL_BYTES,
        scratch=_sums,
    ),
)

TRANSPOSE_CONV_2D = OpExport(
    emit=_emit,
    check=_check,
    check_constants=check_weights_and_bias,
    operators=(TRANSPOSE_CONV_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=("int8", "lut"),  # TensorFlow Lite Micro runs none with INT4 weights
    moves_codes=False,
    any_batch=False,
)
