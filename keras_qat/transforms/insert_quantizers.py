"""Pass: weight layers are wrapped, and quantizers put where tensors need a grid."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_qat.keras_graph import GraphNode, input_name, rebuild
from keras_qat.quantizers import Quantizer, SoftmaxRounding
from keras_qat.restrictions import AVERAGE_POOLING
from keras_qat.rule import Output, Rule
from keras_qat.rules import rule_or_float
from keras_qat.transforms.bit_widths import BitWidths
from keras_qat.transforms.grid_plan import GridPlan, SharedGrid
from keras_qat.transforms.layer_copies import LayerCopies, copy_of, unused_name


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
        grid = self._plan.starts(self._float_inputs[input_name(tensor)])
        return tensor if grid is None else self._quantizer_of(grid)(tensor)

    def call(self, node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer's copy in the place of the layer, and a quantizer behind it if it needs one."""
        rule = rule_or_float(node)
        layer = self.copies.of(node.operation, lambda layer: self._copy(layer, rule))
        outputs = layer(*args, **kwargs)
        if len(node.outputs) > 1:
            return outputs  # only a layer in float yields several tensors
        (float_tensor,) = node.outputs
        if rule.output is Output.FIXED:
            return SoftmaxRounding(name=self._unique(node.operation.name))(outputs)
        if (grid := self._plan.starts(float_tensor)) is not None:
            return self._quantizer_of(grid)(outputs)
        grid = self._plan.grid_of(float_tensor)
        if rule.output is Output.ROUND_TO_INPUT and grid is not None:
            pooled = isinstance(node.operation, AVERAGE_POOLING)
            interpolated = isinstance(node.operation, keras.layers.UpSampling2D)
            return self._quantizer_of(grid)(outputs, pooled=pooled, interpolated=interpolated)
        return outputs

    def _quantizer_of(self, grid: SharedGrid) -> Quantizer:
        if id(grid) not in self._quantizers:
            self._quantizers[id(grid)] = grid.quantizer(self._unique(grid.name))
        return self._quantizers[id(grid)]

    def _copy(self, layer: Any, rule: Rule) -> Any:
        """The layer's copy, in its wrapper if it is a weight layer to be quantized."""
        config, _ = self._bit_widths.config_for([layer.name])
        if rule.stand_in is not None:
            return rule.stand_in(layer)
        if rule.wrapper is None or config is None:
            return copy_of(layer)
        bits = self._bit_widths.weight_bits(layer)
        return rule.wrapper(copy_of(layer), config.weight_quantizer(bits))

    def _unique(self, name: str) -> str:
        return unused_name(f"{name}_quantizer", self._taken)
