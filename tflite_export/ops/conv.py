"""CONV_2D and DEPTHWISE_CONV_2D."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph, ops
from tflite_export.ops.emission import Emission
from tflite_export.ops.linear import emit_linear, linear_export, linear_operator
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


CONV_2D_OPERATOR = linear_operator("CONV_2D", "AddConv2D", structure_bytes=80)
DEPTHWISE_CONV_2D_OPERATOR = linear_operator(
    "DEPTHWISE_CONV_2D", "AddDepthwiseConv2D", structure_bytes=80
)

CONV_2D = linear_export(_emit_conv_2d, CONV_2D_OPERATOR, column_axis=3)
DEPTHWISE_CONV_2D = linear_export(
    _emit_depthwise_conv_2d, DEPTHWISE_CONV_2D_OPERATOR, column_axis=3
)
