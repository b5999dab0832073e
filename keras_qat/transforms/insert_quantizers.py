"""Pass: weight layers are wrapped, and quantizers put where tensors need a grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from keras_qat.keras_graph import GraphNode, consumers, input_name, rebuild
from keras_qat.quantizers import Quantizer, SoftmaxRounding
from keras_qat.rules import Output, Rule, Stage, rule_of
from keras_qat.transforms.bit_widths import BitWidths
from keras_qat.transforms.layer_copies import LayerCopies, copy_of, unused_name


@dataclasses.dataclass(frozen=True)
class TensorState:
    """What is known of a tensor while the graph is rewritten.

    Attributes:
        stage: what it is while it has no grid; `None` once it has one.
        signed: whether it can be negative.
        quantizer: the quantizer whose grid it is on.
        members: names of the layers that make it since its last grid.
        minimum_bits: bits that its grid should have at least.
    """

    stage: Stage | None
    signed: bool
    quantizer: Quantizer | None = None
    members: tuple[str, ...] = ()
    minimum_bits: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizerSite:
    """A quantizer and the tensor of the float model that it will see."""

    quantizer: Quantizer
    float_tensor: Any
    is_input: bool


def insert_quantizers(
    model: keras.Model,
    bit_widths: BitWidths,
    signed_inputs: Mapping[str, bool],
    model_type: type[keras.Model] = keras.Model,
) -> tuple[keras.Model, list[QuantizerSite]]:
    """The model with quantizers, uncalibrated, and where they sit.

    Args:
        model: normalized float model: linear weight layers, known layer types only.
        bit_widths: bits and configs by layer.
        signed_inputs: input name -> whether the input can be negative.
        model_type: class of the new model.
    """
    inserter = _Inserter(model, bit_widths, signed_inputs)
    result = rebuild(model, inserter.call, inserter.on_input, model_type)
    inserter.copies.copy_weights()
    return result, inserter.sites


class _Inserter:
    def __init__(
        self, model: keras.Model, bit_widths: BitWidths, signed_inputs: Mapping[str, bool]
    ):
        self.copies = LayerCopies()
        self.sites: list[QuantizerSite] = []
        self._bit_widths = bit_widths
        self._signed_inputs = signed_inputs
        self._consumers = consumers(model)
        self._float_inputs = {input_name(tensor): tensor for tensor in model.inputs}
        self._states: dict[int, TensorState] = {}
        self._taken = {layer.name for layer in model.layers}

    def on_input(self, tensor: Any) -> Any:
        """A fresh input, on the grid that an application will feed."""
        name = input_name(tensor)
        float_tensor = self._float_inputs[name]
        signed = self._signed_inputs[name]
        config, overridden = self._bit_widths.config_for([name])
        if config is None:
            self._states[id(float_tensor)] = TensorState(Stage.FLOAT, signed)
            return tensor
        bits = config.activation_bits if overridden else config.input_bits
        quantizer = config.input_quantizer(bits, signed, self._unique(name))
        self.sites.append(QuantizerSite(quantizer, float_tensor, is_input=True))
        self._states[id(float_tensor)] = TensorState(None, signed, quantizer)
        return quantizer(tensor)

    def call(self, node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer's copy in the place of the layer, and a quantizer behind it if it needs one."""
        rule = rule_of(node)
        layer = self.copies.of(node.operation, lambda layer: self._copy(layer, rule))
        outputs = layer(*args, **kwargs)
        operands = [self._states[id(tensor)] for tensor in node.inputs]
        state = self._state_behind(node, rule, operands)
        (float_tensor,) = node.outputs
        if rule.output is Output.FIXED:
            outputs = SoftmaxRounding(name=self._unique(node.operation.name))(outputs)
        elif rule.output is Output.ROUND_TO_INPUT and state.quantizer is not None:
            pooled = isinstance(node.operation, keras.layers.AveragePooling2D)
            outputs = state.quantizer(outputs, pooled=pooled)
        elif self._needs_quantizer(float_tensor, state):
            outputs, state = self._quantize(outputs, float_tensor, state)
        self._states[id(float_tensor)] = state
        return outputs

    def _state_behind(
        self, node: GraphNode, rule: Rule, operands: list[TensorState]
    ) -> TensorState:
        first = operands[0]
        name = node.operation.name
        members = (*first.members, name) if first.stage and rule.joins else (name,)
        signed = rule.signed or rule.yields is Stage.LINEAR
        signed = not rule.unsigned and (signed or any(state.signed for state in operands))
        if self._bit_widths.config_for([name])[0] is None:
            return TensorState(Stage.FLOAT, signed, members=members)
        if rule.output is Output.FIXED:
            return TensorState(None, signed)
        if rule.output is Output.QUANTIZE:
            return TensorState(rule.yields, signed, members=members, minimum_bits=rule.minimum_bits)
        if first.stage in (None, Stage.FLOAT):
            return dataclasses.replace(first, signed=signed and first.signed, members=members)
        return TensorState(Stage.COMPLETE, signed, members=members)

    def _needs_quantizer(self, float_tensor: Any, state: TensorState) -> bool:
        """Whether a grid must come here, because not exactly one reader fuses with the tensor."""
        if state.stage in (None, Stage.FLOAT):
            return False
        readers = self._consumers.get(id(float_tensor), [])
        if len(readers) != 1 or readers[0] is None:
            return True
        return state.stage not in rule_of(readers[0]).joins

    def _quantize(
        self, outputs: Any, float_tensor: Any, state: TensorState
    ) -> tuple[Any, TensorState]:
        config, overridden = self._bit_widths.config_for(state.members)
        if config is None:
            return outputs, dataclasses.replace(state, stage=Stage.FLOAT)
        bits = self._bit_widths.activation_bits(float_tensor, config, overridden)
        if not overridden:
            bits = max(bits, state.minimum_bits)
        name = self._unique(state.members[-1])
        quantizer = config.activation_quantizer(bits, state.signed, name)
        self.sites.append(QuantizerSite(quantizer, float_tensor, is_input=False))
        return quantizer(outputs), TensorState(None, state.signed, quantizer)

    def _copy(self, layer: Any, rule: Rule) -> Any:
        """The layer's copy, in its wrapper if it is a weight layer to be quantized."""
        config, _ = self._bit_widths.config_for([layer.name])
        if rule.copy_as is not None:
            return rule.copy_as.from_config(layer.get_config())
        if rule.wrapper is None or config is None:
            return copy_of(layer)
        bits = self._bit_widths.weight_bits(layer)
        return rule.wrapper(copy_of(layer), config.weight_quantizer(bits))

    def _unique(self, name: str) -> str:
        return unused_name(f"{name}_quantizer", self._taken)
