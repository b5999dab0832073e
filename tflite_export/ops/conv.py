"""CONV_2D and DEPTHWISE_CONV_2D."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph, ops
from tflite_export.ops.emission import Emission
from tflite_export.ops.linear import (
    CHANNEL_BYTES,
    EVERY_STORAGE,
    check_linear,
    check_weights_and_bias,
    emit_linear,
    unpacked_int4,
)
from tflite_export.ops.op_export import EVERY_TARGET, OpExport
from tflite_export.ops.operator_type import MicroKernel, OperatorType
from tflite_export.ops.option_fields import dilation_fields, fused_activation, window_fields


def _emit_conv_2d(op: ops.Conv2D, graph: IntegerGraph) -> Emission:
    fields = {**window_fields(op), **fused_activation(op, graph), **dilation_fields(op)}
    return emit_linear("CONV_2D", 3, "Conv2DOptions", fields, op, graph)


def _emit_depthwise_conv_2d(op: ops.DepthwiseConv2D, graph: IntegerGraph) -> Emission:
    channels = graph.tensors[op.inputs[0]].shape[3]
    fields = {
        **window_fields(op),
        **fused_activation(op, graph),
        **dilation_fields(op),
        "depthMultiplier": op.weight.values.shape[3] // channels,
    }
    return emit_linear("DEPTHWISE_CONV_2D", 3, "DepthwiseConv2DOptions", fields, op, graph)


CONV_2D_OPERATOR = OperatorType(
    "CONV_2D",
    MicroKernel(
        resolver="AddConv2D",
        structure_bytes=80,
        channel_bytes=CHANNEL_BYTES,
        scratch=unpacked_int4,
    ),
)
DEPTHWISE_CONV_2D_OPERATOR = OperatorType(
    "DEPTHWISE_CONV_2D",
    MicroKernel(
        resolver="AddDepthwiseConv2D",
        structure_bytes=80,
        channel_bytes=CHANNEL_BYTES,
        scratch=unpacked_int4,
    ),
)

CONV_2D = OpExport(
    emit=_emit_conv_2d,
    check=check_linear,
    check_constants=check_weights_and_bias,
    operators=(CONV_2D_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=EVERY_STORAGE,
    moves_codes=False,
    column_axis=3,
)
DEPTHWISE_CONV_2D = OpExport(
    emit=_emit_depthwise_conv_2d,
    check=check_linear,
    check_constants=check_weights_and_bias,
    operators=(DEPTHWISE_CONV_2D_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=EVERY_STORAGE,
    moves_codes=False,
    column_axis=3,
)
