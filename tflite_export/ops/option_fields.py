"""Option fields that several operators share."""

from __future__ import annotations

from typing import Any

from keras_qat.integer import IntegerGraph, ops

_LARGEST_SIX = 2.0**30
_FUSED = {"linear": "NONE", "relu": "RELU", "relu6": "RELU6"}

Windowed = (
    ops.Conv2D | ops.DepthwiseConv2D | ops.TransposeConv2D | ops.MaxPool2D | ops.AveragePool2D
)


def window_fields(op: Windowed) -> dict[str, Any]:
    """Padding and strides."""
    height, width = op.strides
    return {"padding": op.padding.upper(), "strideH": height, "strideW": width}


def dilation_fields(op: ops.Conv2D | ops.DepthwiseConv2D) -> dict[str, Any]:
    """Distances between the taps of a window."""
    height, width = op.dilation
    return {"dilationHFactor": height, "dilationWFactor": width}


def fused_activation(op: ops.LinearOp | ops.ArithmeticOp, graph: IntegerGraph) -> dict[str, Any]:
    """The clamp. A RELU6 far above int8 becomes a RELU, because runtimes refuse 6 beyond int32."""
    scale = float(graph.tensors[op.output].qparams.scale)
    beyond = op.activation == "relu6" and scale * _LARGEST_SIX < 6.0
    return {"fusedActivationFunction": _FUSED["relu" if beyond else op.activation]}
