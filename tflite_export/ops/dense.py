"""FULLY_CONNECTED."""

from __future__ import annotations

from keras_qat.integer import IntegerGraph, ops
from tflite_export.ops.emission import Emission
from tflite_export.ops.linear import emit_linear, linear_export, linear_operator
from tflite_export.ops.option_fields import fused_activation


def _emit(op: ops.FullyConnected, graph: IntegerGraph) -> Emission:
    fields = {
        **fused_activation(op, graph),
        "keepNumDims": len(graph.tensors[op.output].shape) > 2,
    }
    return emit_linear("FULLY_CONNECTED", 4, "FullyConnectedOptions", fields, op, graph)


FULLY_CONNECTED_OPERATOR = linear_operator(
    "FULLY_CONNECTED", "AddFullyConnected", structure_bytes=72, one_scale_is_free=True
)

# With INT4 weights it is a 1x1 convolution for TensorFlow Lite Micro.
FULLY_CONNECTED = linear_export(_emit, FULLY_CONNECTED_OPERATOR, column_axis=1)
