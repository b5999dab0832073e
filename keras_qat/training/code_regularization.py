"""The term of the training loss that pulls the weights of a layer to their codes."""

from __future__ import annotations

from keras import ops

from keras_qat.quantized_layers import QuantizedKernel
from keras_qat.quantizers import WaveQWeightQuantizer
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.tensors import Tensor
from keras_qat.training.losses import sinusoidal_regularization


def code_regularization(kernel: QuantizedKernel) -> Tensor:
    """The loss, a scalar, that pulls a kernel to its codes.

    No layer adds it with `add_loss`: the replicas of a MirroredStrategy share one list of such
    losses. Where replicas wait for one another within a forward pass, they would read the losses of
    the others.
    """
    quantizer, weights = kernel.weight_quantizer, kernel.channels_last_kernel()
    if isinstance(quantizer, WaveQWeightQuantizer):
        return _with_learned_width(quantizer, weights)
    return quantizer.code_regularization * sinusoidal_regularization(quantizer.position(weights))


def _with_learned_width(quantizer: WaveQWeightQuantizer, weights: Tensor) -> Tensor:
    width = as_tensor(quantizer.width)
    distance = sinusoidal_regularization(quantizer.width_position(weights))
    pull = quantizer.code_regularization * distance / ops.power(2.0, width)
    return pull + quantizer.width_regularization * width
