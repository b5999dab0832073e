"""FULLY_CONNECTED."""

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
from tflite_export.ops.option_fields import fused_activation


def _emit(op: ops.FullyConnected, graph: IntegerGraph) -> Emission:
    fields = {
        **fused_activation(op, graph),
        "keepNumDims": len(graph.tensors[op.output].shape) > 2,
    }
    return emit_linear("FULLY_CONNECTED", 4, "FullyConnectedOptions", fields, op, graph)


FULLY_CONNECTED_OPERATOR = OperatorType(
    "FULLY_CONNECTED",
    MicroKernel(
        resolver="AddFullyConnected",
        structure_bytes=72,
        channel_bytes=CHANNEL_BYTES,
        scratch=unpacked_int4,
    ),
)

FULLY_CONNECTED = OpExport(
    emit=_emit,
    check=check_linear,
    check_constants=check_weights_and_bias,
    operators=(FULLY_CONNECTED_OPERATOR,),
    targets=EVERY_TARGET,
    weight_storages=EVERY_STORAGE,  # in INT4 it becomes a 1x1 convolution
    moves_codes=False,
    column_axis=1,
)
