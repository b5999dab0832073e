"""Finds every quantizer of a quantized model, with the kernel or the tensor that it reads."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_qat.conversion.tensor_names import tensor_names
from keras_qat.keras_graph import GraphNode, nodes
from keras_qat.layer_rules.multiplications import kernel_macs
from keras_qat.quantized_layers import QuantizedKernel, QuantizeWrapper, quantized_kernels
from keras_qat.quantizers import Quantizer


@dataclasses.dataclass(frozen=True)
class Product:
    """One call of a layer that multiplies activations with a kernel.

    Attributes:
        macs: the multiply-accumulates for one example; `None` if sizes are unknown.
        operand: the name of the quantized tensor that the call reads; `None` if it reads float32.
    """

    macs: int | None
    operand: str | None


@dataclasses.dataclass(frozen=True)
class QuantizerSite:
    """A quantizer and its input.

    Attributes:
        quantizer: the quantizer.
        kernel: the kernel that it quantizes; `None` for an activation.
        source: the symbolic tensor that it quantizes; `None` for a kernel.
        products: the calls that multiply with the kernel; empty for an activation.
    """

    quantizer: Quantizer
    kernel: QuantizedKernel | None = None
    source: Any = None
    products: tuple[Product, ...] = ()


def quantizer_sites(model: keras.Model) -> dict[str, QuantizerSite]:
    """Every quantizer by the name of its input, in the order of the graph.

    Names are `"conv/weights"` for kernels and `"relu/activations"` for tensors.
    """
    names = tensor_names(model, labelled=False)
    grids: dict[int, str] = {}  # the quantized tensor that a tensor comes from, by its id
    found: dict[str, QuantizerSite] = {}
    for node in nodes(model):
        layer = node.operation
        grid = next((grids[id(each)] for each in node.inputs if id(each) in grids), None)
        products = _products(node, grid)
        for kernel, product in zip(quantized_kernels(layer), products, strict=True):
            name = f"{kernel.name}/weights"
            earlier = found[name].products if name in found else ()
            found[name] = QuantizerSite(
                kernel.weight_quantizer, kernel=kernel, products=(*earlier, product)
            )
        if isinstance(layer, Quantizer):
            (source,) = node.inputs
            grid = f"{names[id(source)]}/activations"
            found[grid] = QuantizerSite(layer, source=source)
        if grid is not None:
            grids |= {id(tensor): grid for tensor in node.outputs}
    return found


def _products(node: GraphNode, grid: str | None) -> list[Product]:
    """The products of a call with each kernel of its layer, on an input from a quantized tensor."""
    layer = node.operation
    if next(quantized_kernels(layer), None) is None:
        return []
    integers = isinstance(layer, QuantizeWrapper)  # other wrappers compute in float32
    counts = kernel_macs(layer.layer, node.inputs, node.outputs)
    return [Product(count, grid if integers else None) for count in counts]
