"""Pass: weight layers are wrapped, and quantizers put where tensors need a grid."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import keras

from keras_qat.copying import config_of, copy_of
from keras_qat.keras_graph import (
    GraphNode,
    input_name,
    layer_name,
    nodes,
    rebuild,
)
from keras_qat.kernel_places import kernel_places
from keras_qat.quantizers import NO_SOURCE, Dequantize, Quantizer, SoftmaxRounding
from keras_qat.restrictions import AVERAGE_POOLING
from keras_qat.rule import Output, Rule
from keras_qat.rules import rule_or_float
from keras_qat.transforms.bit_widths import BitWidths
from keras_qat.transforms.grid_plan import GridPlan, SharedGrid
from keras_qat.transforms.layer_copies import LayerCopies, unused_name
from keras_qat.wrappers import AbsorbedRescaling


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizerSite:
    """A quantizer and the tensors of the float model that it will see."""

    quantizer: Quantizer
    float_tensors: tuple[Any, ...]
    is_input: bool


def insert_quantizers(
    model: keras.Model,
    bit_widths: BitWidths,
    plan: GridPlan,
    model_type: type[keras.Model] = keras.Model,
) -> tuple[keras.Model, list[QuantizerSite]]:
    """The model with quantizers, uncalibrated, and where they sit.

    Args:
        model: normalized float model: linear weight layers, known layer types only.
        bit_widths: bits and configs by layer.
        plan: where grids start.
        model_type: class of the new model.
    """
    inserter = _Inserter(model, bit_widths, plan)
    result = rebuild(model, inserter.call, inserter.on_input, model_type)
    inserter.copies.copy_weights()
    return result, inserter.sites()


class _Inserter:
    def __init__(self, model: keras.Model, bit_widths: BitWidths, plan: GridPlan):
        self.copies = LayerCopies()
        self._bit_widths = bit_widths
        self._plan = plan
        self._float_inputs = {input_name(tensor): tensor for tensor in model.inputs}
        self._quantizers: dict[int, Quantizer] = {}
        self._taken = {layer.name for layer in model.layers}
        self._calls = Counter(id(node.operation) for node in nodes(model))
        self._gains: dict[int, float] = {}  # of absorbed rescalings, by the id of what they yield
        self._in_float: dict[int, Any] = {}  # tensors without a grid, by their id
        self._dequantized: dict[int, Any] = {}  # by the id of the tensor on its grid

    def sites(self) -> list[QuantizerSite]:
        """Every quantizer, in the order of the graph."""
        return [
            QuantizerSite(
                self._quantizer_of(grid),
                tuple(site.tensor for site in grid.sites),
                grid.is_input,
            )
            for grid in self._plan.grids
        ]

    def on_input(self, tensor: Any) -> Any:
        """A fresh input, on the grid that an application will feed."""
        return self._on_its_grid(self._float_inputs[input_name(tensor)], tensor)

    def call(self, node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer's copy in the place of the layer, and a quantizer behind it if it needs one."""
        if self._plan.is_float(node):
            return self._call_in_float(node, args, kwargs)
        if isinstance(node.operation, AbsorbedRescaling):
            self._gains[id(node.outputs[0])] = node.operation.factor
            return args[0]
        rule = rule_or_float(node)
        gain = self._gains.get(id(node.inputs[0]), 1.0)
        layer = self.copies.of(node.operation, lambda layer: self._copy(layer, rule, gain))
        if rule.wrapper is not None and self._calls[id(node.operation)] > 1:
            kwargs = {**kwargs, "source": node.call_index}
        outputs = layer(*args, **kwargs)
        (float_tensor,) = node.outputs
        if rule.output is Output.FIXED:
            return SoftmaxRounding(name=self._unique(node.operation.name))(outputs)
        if (grid := self._plan.starts(float_tensor)) is not None:
            return self._quantizer_of(grid)(outputs, **self._source(grid, float_tensor))
        grid = self._plan.grid_of(float_tensor)
        if rule.output is Output.ROUND_TO_INPUT and grid is not None:
            pooled = isinstance(node.operation, AVERAGE_POOLING)
            interpolated = isinstance(node.operation, keras.layers.UpSampling2D)
            options = {"pooled": pooled, "interpolated": interpolated, "source": NO_SOURCE}
            return self._quantizer_of(grid)(outputs, **options)
        return outputs

    def _call_in_float(self, node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer's copy in float32, its inputs off their grids, its outputs on theirs."""
        layer = self.copies.of(node.operation, lambda layer: self._copy_in_float(layer, node))
        args, kwargs = keras.tree.map_structure(self._off_its_grid, (args, kwargs))
        outputs = layer(*args, **kwargs)
        found = map(self._on_its_grid, node.outputs, keras.tree.flatten(outputs))
        return keras.tree.pack_sequence_as(outputs, list(found))

    def _on_its_grid(self, float_tensor: Any, tensor: Any) -> Any:
        grid = self._plan.starts(float_tensor)
        if grid is not None:
            return self._quantizer_of(grid)(tensor)
        self._in_float[id(tensor)] = tensor
        return tensor

    def _off_its_grid(self, argument: Any) -> Any:
        key = id(argument)
        if not isinstance(argument, keras.KerasTensor) or key in self._in_float:
            return argument
        if key not in self._dequantized:
            source = layer_name(argument).removesuffix("_quantizer")
            name = unused_name(f"{source}_dequantize", self._taken)
            self._dequantized[key] = Dequantize(name=name)(argument)
        return self._dequantized[key]

    def _source(self, grid: SharedGrid, float_tensor: Any) -> dict[str, int]:
        """Which of the tensors on a shared grid this is, for its quantizer."""
        tensors = [id(site.tensor) for site in grid.sites]
        return {"source": tensors.index(id(float_tensor))} if len(tensors) > 1 else {}

    def _quantizer_of(self, grid: SharedGrid) -> Quantizer:
        if id(grid) not in self._quantizers:
            self._quantizers[id(grid)] = grid.quantizer(self._unique(grid.name))
        return self._quantizers[id(grid)]

    def _copy(self, layer: Any, rule: Rule, input_gain: float) -> Any:
        """The layer's copy, in its wrapper if it is a weight layer to be quantized."""
        if rule.stand_in is not None:
            return rule.stand_in(layer)
        if rule.wrapper is None:
            return copy_of(layer)
        config, _ = self._bit_widths.config_for([layer.name])
        bits = self._bit_widths.weight_bits(layer)
        return rule.wrapper(copy_of(layer), config.weight_quantizer(bits), input_gain=input_gain)

    def _copy_in_float(self, layer: Any, node: GraphNode) -> Any:
        """The layer's copy in float32; its kernels are quantized unless an override says no."""
        copy, rule = _copy_in_float32(layer), rule_or_float(node)
        config, _ = self._bit_widths.config_for([layer.name])
        if config is None or rule.wrapper is None:
            return copy
        bits = self._bit_widths.weight_bits(layer)
        return rule.wrapper(copy, [config.weight_quantizer(bits) for _ in kernel_places(layer)])

    def _unique(self, name: str) -> str:
        return unused_name(f"{name}_quantizer", self._taken)


def _copy_in_float32(layer: Any) -> Any:
    """The layer's copy, whatever it computed in: so do the kernels that run it."""
    changes = {"dtype": "float32"} if "dtype" in config_of(layer) else {}
    return copy_of(layer, **changes)
