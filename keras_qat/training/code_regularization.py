"""The term of the training loss that pulls the weights of a layer to their codes."""

from __future__ import annotations

from keras_qat.quantized_layers import QuantizedKernel
from keras_qat.tensors import Tensor
from keras_qat.training.losses import sinusoidal_regularization


def code_regularization(kernel: QuantizedKernel) -> Tensor:
    """The loss, a scalar, that pulls a kernel to its codes.

    No layer adds it with `add_loss`: the replicas of a MirroredStrategy share one list of such
    losses. Where replicas wait for one another within a forward pass, they would read the losses of
    the others.
    """
    quantizer = kernel.weight_quantizer
    position = quantizer.position(kernel.channels_last_kernel())
    return quantizer.code_regularization * sinusoidal_regularization(position)
