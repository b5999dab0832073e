"""The reasons why a layer of a supported type cannot be quantized at its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_qat.keras_graph import GraphNode

layers = keras.layers

AVERAGE_POOLING = (layers.AveragePooling1D, layers.AveragePooling2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose)
MERGES = (
    *(layers.Add, layers.Average, layers.Maximum, layers.Minimum),
    *(layers.Multiply, layers.Subtract),
)
_LARGEST_AVERAGE_WINDOW = 256
MOST_STEPS = 32
"""The most time steps for which a TimeDistributed is written out step by step."""


def unsupported_reason(node: GraphNode) -> str:
    """Why a layer whose type has a rule is not supported at this place; empty if it is."""
    layer, shape = node.operation, node.inputs[0].shape
    last_axis = (-1, len(shape) - 1)
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "only data_format='channels_last' can be deployed"
    if isinstance(layer, TRANSPOSED) and (reason := _reason_of_transposed(layer)):
        return reason
    if isinstance(layer, layers.UpSampling2D) and (reason := _reason_of_interpolated(layer)):
        return reason
    if isinstance(layer, layers.TimeDistributed):
        return (
            f"it becomes its layer, called on every step, for 1 to {MOST_STEPS} known steps. "
            f"Received: {shape}. Give the model's input a number of steps, and cut it into shorter "
            "pieces if it has more, or put the steps into the batch outside of the model"
        )
    if isinstance(layer, (layers.CenterCrop, layers.RandomCrop)):
        return _reason_of_crop(layer, shape)
    if isinstance(layer, layers.BatchNormalization) and layer.axis not in last_axis:
        return "only the last axis can be normalized"
    if isinstance(layer, layers.Concatenate) and layer.axis in (0, -len(shape)):
        return "examples of a batch cannot be joined"
    if isinstance(layer, layers.Normalization) and layer.axis not in ((), (-1,), (len(shape) - 1,)):
        return "only the last axis, or all axes at once, can be normalized"
    if isinstance(layer, layers.Rescaling):
        sizes = {np.size(layer.scale), np.size(layer.offset)}
        if not sizes <= {1, shape[-1]}:
            return "its scale and offset must be one number, or one for each channel"
    if isinstance(layer, layers.Softmax) and layer.axis not in last_axis:
        return "only a softmax over the last axis has a rule"
    if isinstance(layer, MERGES) and not joinable([tensor.shape for tensor in node.inputs]):
        shapes = ", ".join(str(tensor.shape) for tensor in node.inputs)
        return f"it needs two tensors or more, with equal sizes or sizes of 1, not {shapes}"
    if isinstance(layer, AVERAGE_POOLING) and not covers_everything(layer, node):
        window = math.prod(layer.pool_size)
        if window > _LARGEST_AVERAGE_WINDOW:
            return f"an average over {window} values has no rule (at most 256, or all of them)"
    return ""


def covers_everything(layer: Any, node: GraphNode) -> bool:
    """Whether an average has one window, of the size of the image or too large for a pooling."""
    window, shape = tuple(layer.pool_size), tuple(node.inputs[0].shape[1:-1])
    if None in shape or any(size != 1 for size in node.outputs[0].shape[1:-1]):
        return False
    covered = all(each >= size for each, size in zip(window, shape, strict=True))
    return window == shape or (covered and math.prod(window) > _LARGEST_AVERAGE_WINDOW)


def joinable(shapes: Sequence[tuple[int | None, ...]]) -> bool:
    """Whether a merge layer of these tensors deploys: on each axis, sizes are equal or 1.

    As in Keras, a tensor of lower rank gets axes of size 1 behind its batch.
    """
    rank = max(map(len, shapes))
    if len(shapes) < 2 or any(None in shape[1:] for shape in shapes if len(shape) < rank):
        return False
    full = [(shape[0], *(1,) * (rank - len(shape)), *shape[1:]) for shape in shapes]
    return all(len({*sizes} - {1}) <= 1 for sizes in zip(*full, strict=True))


def _reason_of_crop(layer: Any, shape: tuple[int | None, ...]) -> str:
    height, width = shape[1:3]
    wanted = (layer.height, layer.width)
    if height is None or width is None:
        return "it needs images of a known size; give the model's input a height and a width"
    if isinstance(layer, layers.RandomCrop) and (height, width) != wanted:
        return (
            f"in inference Keras does not crop, so images of {height}x{width} stay as they are; "
            "crop at random where the data is loaded, and use CenterCrop in the model"
        )
    if height < layer.height or width < layer.width:
        return (
            f"images of {height}x{width} are smaller than its {layer.height}x{layer.width}, so it "
            "resizes them; use ZeroPadding2D, or resize where the data is loaded"
        )
    return ""


def _reason_of_interpolated(layer: Any) -> str:
    if layer.interpolation not in ("nearest", "bilinear"):
        return f"interpolation='nearest' and 'bilinear' have a rule, not {layer.interpolation!r}"
    exact = all(size.bit_count() == 1 for size in layer.size)
    if layer.interpolation == "bilinear" and not (exact and math.prod(layer.size) <= 256):
        return (
            "interpolation='bilinear' has a rule for sizes that are powers of two, with a product "
            f"up to 256, not {tuple(layer.size)}"
        )
    return ""


def _reason_of_transposed(layer: Any) -> str:
    if any(rate != 1 for rate in layer.dilation_rate):
        return "runtimes have no transposed convolution with a dilation"
    windows = list(zip(layer.kernel_size, layer.strides, strict=True))
    holes = any(size < stride for size, stride in windows)
    padded = any(size > stride for size, stride in windows) or layer.output_padding is not None
    if layer.padding == "same" and holes and padded:
        return (
            "with padding='same' a kernel smaller than the strides along one axis has no rule; "
            "use padding='valid' and a Cropping layer, or a larger kernel_size"
        )
    return ""
