"""Finds the kernels of a layer that have a quantizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from keras_qat.quantized_layers.quantize_wrapper import QuantizeWrapper
from keras_qat.quantized_layers.weight_only import WeightOnlyWrapper
from keras_qat.quantizers import WeightQuantizer
from keras_qat.tensors import Tensor


class QuantizedKernel(Protocol):
    """A kernel and its quantizer, such as a `QuantizeWrapper`."""

    @property
    def name(self) -> str:
        """What the kernel is called: its layer, or a part of it."""

    @property
    def weight_quantizer(self) -> WeightQuantizer:
        """The quantizer of the kernel."""

    @property
    def kernel(self) -> Any:
        """The variable of the latent kernel, in the layout of its layer."""

    def channels_last_kernel(self) -> Tensor:
        """The latent kernel in a shape whose last axis counts the output channels."""


def quantized_kernels(layer: Any) -> Iterator[QuantizedKernel]:
    """Every kernel with a quantizer in a layer of a quantized model."""
    if isinstance(layer, QuantizeWrapper):
        yield layer
    elif isinstance(layer, WeightOnlyWrapper):
        yield from layer.kernels
