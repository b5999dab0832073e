"""The learned integers of a kernel that a layer multiplies with in float32."""

from __future__ import annotations

import numpy as np
from keras import ops

from keras_qat.integer import QuantParams
from keras_qat.integer.ops import FloatWeight, QuantizedArray
from keras_qat.quantizers import WeightQuantizer
from keras_qat.tensors import Tensor


def learned_weight(name: str, quantizer: WeightQuantizer, kernel: Tensor) -> FloatWeight:
    """The learned integers of a kernel, on their grid, with the output channels first.

    Args:
        name: the name of the kernel.
        quantizer: its quantizer.
        kernel: the latent kernel, output channels last.

    Raises:
        LoweringError: no file can hold the codes learned so far.
    """
    codes = np.moveaxis(quantizer.deployed_codes(kernel, name), -1, 0).astype(np.int8)
    scale = np.asarray(ops.convert_to_numpy(quantizer.scale), np.float32)
    axis = 0 if scale.ndim else None
    bits = quantizer.learned_bits(kernel)
    return FloatWeight(name, QuantizedArray(codes, QuantParams(scale, axis=axis)), bits)
