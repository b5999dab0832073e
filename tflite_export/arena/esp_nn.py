"""The scratch of ESP-NN's kernels.

Read from ESP-NN at d45b843 (27 April 2026) for the ESP32-S3, as esp-tflite-micro at 99f49e1
(14 August 2026) calls it, and not run on a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tflite_export.arena.layer_sizes import (
    INT16_BYTES,
    INT32_BYTES,
    LayerSizes,
    layer_sizes,
    round_up,
)
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.ops.operator_type import ScratchSizes
from tflite_export.ops.table import micro_kernel

_WHOLE_INPUT = 40 * 1024
_WHOLE_INT16 = 48 * 1024


def _convolution_esp(operator: FileOperator, file: FileModel) -> Sequence[int]:
    return *micro_kernel(operator.code).scratch(operator, file), _esp(layer_sizes(operator, file))


def _esp(layer: LayerSizes) -> int:
    (height, width), (rows, columns), filters = layer.size, layer.window, layer.filters
    pixels, channels = height * width, layer.channels
    plain = layer.padding == (0, 0) and layer.window == layer.strides == (1, 1)
    if plain:
        padded = round_up(channels, 8)
        unaligned = pixels * padded if channels % 8 else 0
        return unaligned + padded * filters + (16 * padded if pixels >= 8 else 0) + 64
    row, taps = columns * channels, rows * columns * channels
    if row < 16 <= taps:
        return (
            filters * INT32_BYTES + 16 + filters * round_up(taps, 16) + 16 + round_up(taps, 16) + 64
        )
    up, left = layer.padding
    image = (width + 2 * left) * (height + 2 * up) * channels if up or left else 0
    weights = rows * columns * round_up(channels, 16) * filters + round_up(row, 16) * rows * filters
    beyond = [
        max(0, output * stride + window - 1 - size)
        for output, stride, window, size in zip(
            layer.output, layer.strides, layer.window, layer.size, strict=True
        )
    ]
    edges = (width + beyond[1]) * (height + beyond[0]) * channels if any(beyond) else 0
    return image + weights + edges + 64 + filters * INT32_BYTES


def _depthwise_esp(operator: FileOperator, file: FileModel) -> Sequence[int]:
    layer = layer_sizes(operator, file)
    multiplier = layer.filters // layer.channels
    own = micro_kernel(operator.code).scratch(operator, file)
    return *own, _esp_depthwise(layer, multiplier)


def _esp_depthwise(layer: LayerSizes, multiplier: int) -> int:
    (height, width), channels = layer.size, layer.channels
    weights, image = layer.taps * channels * multiplier, height * width * channels
    if multiplier == 1 and channels % 8 == 0:
        if layer.window == (3, 3):
            return _esp_three_by_three(layer, weights)
        whole = 2 * (weights + image)
        tile = 2 * width * layer.window[0] * channels
        return whole + 32 if whole <= _WHOLE_INT16 else 2 * weights + tile + 32
    if multiplier == 1 and channels > 3:
        padded = round_up(channels, 8)
        total = round_up(layer.taps * padded * INT16_BYTES, 16)
        total = round_up(total + height * width * padded * INT16_BYTES, 16)
        total = round_up(total + layer.output[0] * layer.output[1] * padded, 16)
        return total + 3 * padded * INT32_BYTES + 16
    return 2 * (weights + image) + 32 if multiplier % 4 == 0 else 32


def _esp_three_by_three(layer: LayerSizes, weights: int) -> int:
    (height, width), channels = layer.size, layer.channels
    beyond = [
        output * stride + 2 - size
        for output, stride, size in zip(layer.output, layer.strides, layer.size, strict=True)
    ]
    twice = [2 * each for each in layer.padding]
    if channels % 16 == 0:
        more = twice if any(twice) else beyond
        if not any(more):
            return weights + 16
        image = (width + more[1]) * (height + more[0]) * channels
        strip = (width + more[1]) * 3 * channels
        return weights + (image if image <= _WHOLE_INPUT else strip) + 16
    if channels < 12:
        return 2 * (weights + height * width * channels) + 32
    padded = round_up(channels, 16)
    rows, columns = (each + max(0, other) for each, other in zip(twice, beyond, strict=True))
    image = (width + columns) * (height + rows) * padded
    return 9 * padded + image + layer.output[0] * layer.output[1] * padded + 64


def _softmax_esp(operator: FileOperator, file: FileModel) -> Sequence[int]:
    return (file.tensors[operator.inputs[0]].shape[1] * INT32_BYTES,)


ESP32_S3: Mapping[str, ScratchSizes] = {
    "CONV_2D": _convolution_esp,
    "DEPTHWISE_CONV_2D": _depthwise_esp,
    "SOFTMAX": _softmax_esp,
}
"""By operator, on the ESP32-S3."""
