"""What pulls the weights of a layer to their codes, as a term of the training loss."""

from __future__ import annotations

from typing import Any

from keras_qat.quantized_layers import QuantizedKernel
from keras_qat.training.losses import sinusoidal_regularization

Tensor = Any


def code_regularization(kernel: QuantizedKernel) -> Tensor:
    """What pulls the kernel to its codes, for the training loss: a scalar.

    No layer adds it by `add_loss`: replicas of a MirroredStrategy share one list of such losses,
    and where they wait for one another within a forward pass, they find each other's in it.
    """
    quantizer = kernel.weight_quantizer
    position = quantizer.position(kernel.channels_last_kernel())
    return quantizer.code_regularization * sinusoidal_regularization(position)
