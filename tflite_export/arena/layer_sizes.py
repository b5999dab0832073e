"""The sizes of a layer with a window, as kernels of vendors see them."""

from __future__ import annotations

import dataclasses

from tflite_export.file.file_model import FileModel, FileOperator, Shape

INT32_BYTES, INT16_BYTES = 4, 2


@dataclasses.dataclass(frozen=True)
class LayerSizes:
    """The sizes of a layer: pairs are (height, width)."""

    size: tuple[int, int]
    channels: int
    output: tuple[int, int]
    filters: int
    window: tuple[int, int]
    window_channels: int
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    padded_more: tuple[int, int]
    int4: bool

    @property
    def taps(self) -> int:
        """Elements of the window in one channel."""
        return self.window[0] * self.window[1]

    @property
    def pointwise(self) -> bool:
        """Whether the layer is a 1x1 convolution without groups, at any strides."""
        plain = self.padding == (0, 0) and self.window == self.dilation == (1, 1)
        return plain and self.channels == self.window_channels


def layer_sizes(operator: FileOperator, file: FileModel) -> LayerSizes:
    """The sizes of a convolution."""
    x, weight, y = (
        file.tensors[name] for name in (operator.inputs[0], operator.inputs[1], operator.outputs[0])
    )
    fields = operator.fields
    strides = (fields["strideH"], fields["strideW"])
    dilation = (fields.get("dilationHFactor", 1), fields.get("dilationWFactor", 1))
    padding = [
        _padding(*each) if fields["padding"] == "SAME" else (0, 0)
        for each in zip(
            x.shape[1:3], y.shape[1:3], weight.shape[1:3], strides, dilation, strict=True
        )
    ]
    return LayerSizes(
        _pair(x.shape),
        x.shape[3],
        _pair(y.shape),
        y.shape[3],
        _pair(weight.shape),
        weight.shape[3],
        strides,
        dilation,
        (padding[0][0], padding[1][0]),
        (padding[0][1], padding[1][1]),
        weight.dtype == "int4",
    )


def _pair(shape: Shape) -> tuple[int, int]:
    return shape[1], shape[2]


def _padding(size: int, output: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    """The rows before an image, and those that there are more behind it.

    >>> _padding(size=8, output=4, window=3, stride=2, dilation=1)
    (0, 1)
    """
    total = max((output - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total % 2


def round_up(value: int, multiple: int) -> int:
    """The least multiple from `value` on."""
    return -(-value // multiple) * multiple
