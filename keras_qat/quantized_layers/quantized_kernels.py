"""The kernels of a layer that have a quantizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from keras_qat.quantized_layers.quantize_wrapper import QuantizeWrapper
from keras_qat.quantized_layers.weight_only import WeightOnlyWrapper
from keras_qat.quantizers import WeightQuantizer

Tensor = Any


class QuantizedKernel(Protocol):
    """A kernel and its quantizer; a `QuantizeWrapper` is one."""

    @property
    def name(self) -> str:
        """What the kernel is called: its layer, or a part of it."""

    @property
    def weight_quantizer(self) -> WeightQuantizer:
        """The quantizer of the kernel."""

    def channels_last_kernel(self) -> Tensor:
        """The latent kernel, reshaped so that its last axis counts the output channels."""


def quantized_kernels(layer: Any) -> Iterator[QuantizedKernel]:
    """Every kernel of a layer of a quantized model that has a quantizer."""
    if isinstance(layer, QuantizeWrapper):
        yield layer
    elif isinstance(layer, WeightOnlyWrapper):
        yield from layer.kernels
