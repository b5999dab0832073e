"""What to write instead of a raw operation that has no layer."""

from __future__ import annotations

_LAYER = "the layer keras.layers.{}, which has its own weights"
_MATRIX = "keras.layers.Dense where one side is a matrix of weights, or keras.layers.Dot"
_MEAN_OF_SQUARES = (
    "ops.mean(ops.square(x - ops.mean(x, axis, keepdims=True)), axis), with a root behind it for a "
    "standard deviation"
)
_NORMALIZED = "the layer keras.layers.{}"

WRITE_INSTEAD: dict[str, str] = {
    "AdaptiveAveragePool": "ops.average_pool with the size of a window",
    "AdaptiveMaxPool": "ops.max_pool with the size of a window",
    "Amin": "-ops.max(-x, axis)",
    "Argmax": "ops.argmax(x, axis) without keepdims, over an axis other than the examples",
    "Argmin": "ops.argmax(-x, axis)",
    "BatchNorm": _NORMALIZED.format("BatchNormalization"),
    "Conv": _LAYER.format("Conv2D or Conv1D"),
    "ConvTranspose": _LAYER.format("Conv2DTranspose or Conv1DTranspose"),
    "DepthwiseConv": _LAYER.format("DepthwiseConv2D or DepthwiseConv1D"),
    "Divide": "x * ops.reciprocal(y)",
    "Dot": _MATRIX,
    "DotProductAttention": "the layer keras.layers.MultiHeadAttention",
    "Einsum": _MATRIX,
    "Glu": "a, b = ops.split(x, 2, axis=-1), and then a * ops.sigmoid(b)",
    "LayerNorm": _NORMALIZED.format("LayerNormalization"),
    "LogSoftmax": "the model up to the softmax, and from_logits=True in the loss",
    "Matmul": _MATRIX,
    "Max": "ops.maximum(ops.max(x, axis), the number), over axes other than the examples",
    "Min": "-ops.max(-x, axis)",
    "RMSNorm": _NORMALIZED.format("RMSNormalization"),
    "Ravel": "the layer keras.layers.Flatten",
    "Resize": "the layer keras.layers.UpSampling2D, for whole factors",
    "SeparableConv": _LAYER.format("SeparableConv2D or SeparableConv1D"),
    "Std": _MEAN_OF_SQUARES,
    "Tensordot": _MATRIX,
    "TrueDivide": "x * ops.reciprocal(y)",
    "Var": _MEAN_OF_SQUARES,
}
"""The class name of an operation in Keras -> the form that has layers."""


def why_no_layer(name: str) -> str:
    """Why an operation of that class name is refused, and what to write.

    >>> why_no_layer("Min")
    'this raw operation has no layer that computes the same; write -ops.max(-x, axis)'
    """
    instead = WRITE_INSTEAD.get(name)
    way_out = "use a supported layer" if instead is None else f"write {instead}"
    return f"this raw operation has no layer that computes the same; {way_out}"
