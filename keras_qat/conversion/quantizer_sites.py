"""Finds every quantizer of a quantized model, with the kernel or the tensor that it reads."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_qat.conversion.to_integer import tensor_names
from keras_qat.keras_graph import nodes
from keras_qat.quantized_layers import QuantizedKernel, quantized_kernels
from keras_qat.quantizers import Quantizer


@dataclasses.dataclass(frozen=True)
class QuantizerSite:
    """A quantizer and its input.

    Attributes:
        quantizer: the quantizer.
        kernel: the kernel that it quantizes; `None` for an activation.
        source: the symbolic tensor that it quantizes; `None` for a kernel.
    """

    quantizer: Quantizer
    kernel: QuantizedKernel | None = None
    source: Any = None


def quantizer_sites(model: keras.Model) -> dict[str, QuantizerSite]:
    """Every quantizer by the name of its input, in the order of the graph.

    Names are `"conv/weights"` for kernels and `"relu/activations"` for tensors.
    """
    names = tensor_names(model)
    found: dict[str, QuantizerSite] = {}
    for node in nodes(model):
        layer = node.operation
        for kernel in quantized_kernels(layer):
            found[f"{kernel.name}/weights"] = QuantizerSite(kernel.weight_quantizer, kernel=kernel)
        if isinstance(layer, Quantizer):
            (source,) = node.inputs
            found[f"{names[id(source)]}/activations"] = QuantizerSite(layer, source=source)
    return found
