"""The scratch of CMSIS-NN's kernels.

Read from CMSIS-NN at 99f736a (15 July 2026), as TensorFlow Lite Micro at 90b983c (20 August 2026)
calls it, and not run on a device. Where compilers differ, the larger size holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from tflite_export.arena.layer_sizes import (
    INT16_BYTES,
    INT32_BYTES,
    LayerSizes,
    layer_sizes,
    round_up,
)
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.ops.operator_type import ScratchSizes

_BLOCK_OF_CHANNELS = 124
_FEW_CHANNELS = 16


def _unfolded_dsp(layer: LayerSizes) -> int:
    """Two columns of an unfolded image in int16. Arm's compiler takes a row of a 1x1 as well."""
    if layer.pointwise:
        return 2 * layer.channels * INT16_BYTES if layer.strides == (1, 1) else 0
    return 2 * round_up(layer.channels * layer.taps, 4) * INT16_BYTES


def _unfolded_mve(layer: LayerSizes) -> int:
    """Four columns of an unfolded image in int8, each of whole vectors of 16."""
    if layer.pointwise:
        return 0
    columns = 4 * round_up(layer.channels * layer.taps, 16)
    row = layer.size[0] == layer.window[0] == layer.dilation[1] == 1
    row = row and layer.channels == layer.window_channels
    if not row or layer.strides[1] * layer.channels % 4:
        return columns
    return _along_a_row(layer) or columns


def _along_a_row(layer: LayerSizes) -> int:
    """The ends of a row with its padding; 0 if the row is too short for that."""
    stride, left, channels = layer.strides[1], layer.padding[1], layer.channels
    right = left + layer.padded_more[1]
    outputs_left, outputs_right = (-(-each // stride) for each in (left, right))
    if outputs_left + outputs_right > layer.output[1]:
        return 0
    window = layer.window[1] * channels
    behind = outputs_right if layer.padded_more[1] else left
    return max(window + left * channels, window - channels + behind * channels)


def _depthwise_dsp(operator: FileOperator, file: FileModel) -> Sequence[int]:
    layer = layer_sizes(operator, file)
    if layer.channels != layer.filters or layer.dilation != (1, 1):
        return ()
    by_itself = layer.window == (3, 3) and max(layer.padding) <= 1 and not layer.int4
    return () if by_itself else (layer.channels * layer.taps * INT16_BYTES,)


def _depthwise_mve(operator: FileOperator, file: FileModel) -> Sequence[int]:
    layer = layer_sizes(operator, file)
    sizes = [0]
    if layer.channels == layer.filters and layer.dilation == (1, 1):
        sizes.append(4 * _BLOCK_OF_CHANNELS * layer.taps)
    if layer.channels == 1 and layer.filters > 1:  # runs as a convolution of reordered weights
        as_convolution = dataclasses.replace(layer, window_channels=1)
        sizes.append(_unfolded_mve(as_convolution) + layer.filters * layer.taps)
    return (max(sizes),)


def _transposed(unfolded: Callable[[LayerSizes], int]) -> ScratchSizes:
    """A transposed convolution: as a convolution of reversed weights, or by rows of sums."""

    def scratch(operator: FileOperator, file: FileModel) -> Sequence[int]:
        _, weight, x = (file.tensors[name] for name in operator.inputs[:3])
        y = file.tensors[operator.outputs[0]]
        fields = operator.fields
        height, width = fields["strideH"], fields["strideW"]
        filters, rows, columns, channels = weight.shape
        if max(height, width) <= 2 and channels > _FEW_CHANNELS:
            taps = rows * columns
            size = (
                2 * round_up(channels * taps, 4) * INT16_BYTES
                if unfolded is _unfolded_dsp
                else 4 * round_up(channels * taps, 16)
            )
            return size, channels * taps * filters
        wide = (x.shape[2] - 1) * width + max(columns, height)
        return (wide * y.shape[3] * max(rows, height) * INT32_BYTES,)

    return scratch


def _dense_dsp(operator: FileOperator, file: FileModel) -> Sequence[int]:
    """Rows of more than two dimensions run as a 1x1 convolution."""
    weight, rank = file.tensors[operator.inputs[1]], len(file.tensors[operator.outputs[0]].shape)
    depth = weight.shape[-1]
    return (2 * depth * INT16_BYTES,) if rank > 2 and depth % 4 == 0 else ()


def _dense_mve(operator: FileOperator, file: FileModel) -> Sequence[int]:
    """The sums of the weights."""
    weight, y = file.tensors[operator.inputs[1]], file.tensors[operator.outputs[0]]
    if len(y.shape) > 2 and weight.shape[-1] % 4 == 0:
        return ()
    return (y.shape[-1] * INT32_BYTES,)


def _sums_of_a_pool(operator: FileOperator, file: FileModel) -> Sequence[int]:
    return (file.tensors[operator.inputs[0]].shape[3] * INT32_BYTES,)


def _convolution(unfolded: Callable[[LayerSizes], int]) -> ScratchSizes:
    return lambda operator, file: (unfolded(layer_sizes(operator, file)),)


CORTEX_M4: Mapping[str, ScratchSizes] = {
    "CONV_2D": _convolution(_unfolded_dsp),
    "DEPTHWISE_CONV_2D": _depthwise_dsp,
    "TRANSPOSE_CONV": _transposed(_unfolded_dsp),
    "FULLY_CONNECTED": _dense_dsp,
    "AVERAGE_POOL_2D": _sums_of_a_pool,
}
"""By operator, on processors with DSP instructions: Cortex-M4, M7, M33."""

CORTEX_M55: Mapping[str, ScratchSizes] = {
    "CONV_2D": _convolution(_unfolded_mve),
    "DEPTHWISE_CONV_2D": _depthwise_mve,
    "TRANSPOSE_CONV": _transposed(_unfolded_mve),
    "FULLY_CONNECTED": _dense_mve,
}
"""By operator, on processors with Helium: Cortex-M55, M85."""
