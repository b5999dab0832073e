"""The kernels of a layer that have a quantizer, wherever they are, and what pulls them to codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from keras_qat.objectives import sinusoidal_regularization
from keras_qat.quantizers import WeightQuantizer
from keras_qat.wrappers.in_float import QuantizeInFloat
from keras_qat.wrappers.quantize_wrapper import QuantizeWrapper

Tensor = Any


class QuantizedKernel(Protocol):
    """A kernel and its quantizer; a `QuantizeWrapper` is one."""

    name: str
    weight_quantizer: WeightQuantizer

    def channels_last_kernel(self) -> Tensor:
        """The latent kernel, reshaped so that its last axis counts the output channels."""


def quantized_kernels(layer: Any) -> Iterator[QuantizedKernel]:
    """Every kernel of a layer of a quantized model that has a quantizer."""
    if isinstance(layer, QuantizeWrapper):
        yield layer
    elif isinstance(layer, QuantizeInFloat):
        yield from layer.kernels


def code_regularization(kernel: QuantizedKernel) -> Tensor:
    """What pulls the kernel to its codes, for the training loss: a scalar.

    No layer adds it by `add_loss`: replicas of a MirroredStrategy share one list of such losses,
    and where they wait for one another within a forward pass, they find each other's in it.
    """
    quantizer = kernel.weight_quantizer
    position = quantizer.position(kernel.channels_last_kernel())
    return quantizer.code_regularization * sinusoidal_regularization(position)
