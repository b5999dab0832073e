"""Builds the quantized model from a plan, call by call."""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.copying import config_of, copy_of
from keras_qat.keras_graph import GraphNode, input_name, layer_name, rebuild
from keras_qat.keras_masks import with_masks
from keras_qat.kernel_places import kernel_places
from keras_qat.layer_rules.restrictions import AVERAGE_POOLING
from keras_qat.layer_rules.rule import Output
from keras_qat.names import unused_name
from keras_qat.quantization.passes.layer_copies import LayerCopies, float_copy_of
from keras_qat.quantization.plan import LayerPlan, Place, QuantizationPlan
from keras_qat.quantization.ruled_graph import ABSORBED, RuledGraph
from keras_qat.quantization.unrounded_outputs import loss_reads
from keras_qat.quantized_layers import QuantizeWrapper
from keras_qat.quantizers import NO_SOURCE, Dequantize, Quantizer, SoftmaxRounding


def insert_quantizers(
    rules: RuledGraph, plan: QuantizationPlan, model_type: type[keras.Model] = keras.Model
) -> tuple[keras.Model, list[Quantizer]]:
    """The model with uncalibrated quantizers, and the quantizer of every grid of the plan.

    Args:
        rules: the normalized float model.
        plan: the plan of its calls.
        model_type: the class of the new model.
    """
    inserter = _Inserter(rules, plan)
    result = rebuild(rules.model, inserter.call, inserter.on_input, model_type)
    inserter.copies.copy_weights()
    return result, [inserter.quantizer_of(index) for index in range(len(plan.grids))]


class _Inserter:
    def __init__(self, rules: RuledGraph, plan: QuantizationPlan):
        self.copies = LayerCopies()
        self._rules = rules
        self._plan = plan
        self._calls = {id(call.node.outputs[0]): call for call in rules.calls}
        self._inputs = dict(plan.inputs)
        self._quantizers: dict[int, Quantizer] = {}
        self._taken = {layer.name for layer in rules.model.layers}
        self._in_float: dict[int, Any] = {}  # tensors without a grid, by id
        self._dequantized: dict[int, Any] = {}  # by the id of the tensor on the grid

    def quantizer_of(self, grid: int) -> Quantizer:
        """The one quantizer of a grid."""
        if grid not in self._quantizers:
            planned = self._plan.grids[grid]
            self._quantizers[grid] = planned.quantizer(self._unique(planned.name))
        return self._quantizers[grid]

    def on_input(self, tensor: Any) -> Any:
        """The input, quantized if the plan gives it a grid."""
        grid = self._inputs[input_name(tensor)]
        if grid is not None:
            return self.quantizer_of(grid)(tensor)
        self._in_float[id(tensor)] = tensor
        return tensor

    def call(self, node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls the copy of a layer, and a quantizer behind it if the plan has one."""
        call = self._calls[id(node.outputs[0])]
        planned = self._plan.layers[call.index]
        if planned.computes_in_float:
            return self._call_in_float(node, planned, args, kwargs)
        rule = planned.rule
        if rule is ABSORBED:
            return args[0]
        layer = self.copies.of(node.operation, lambda layer: _quantized_copy(layer, planned))
        if rule.wrapper is not None and not self._rules.is_called_once(call):
            kwargs = {**kwargs, "source": node.call_index}
        outputs = layer(*args, **kwargs)
        (start,) = planned.starts
        if rule.output is Output.FIXED:
            return SoftmaxRounding(name=self._unique(node.operation.name))(outputs)
        if start is not None:
            options: dict[str, Any] = self._source(start, Place(call.index, 0))
            if (reads := loss_reads(node, self._rules.model)) is not None:
                options["loss_reads"] = reads
            return self.quantizer_of(start)(outputs, **options)
        if rule.output is Output.ROUND_TO_INPUT and planned.grid is not None:
            pooled = isinstance(node.operation, AVERAGE_POOLING)
            interpolated = isinstance(node.operation, keras.layers.UpSampling2D)
            options = {"pooled": pooled, "interpolated": interpolated, "source": NO_SOURCE}
            return self.quantizer_of(planned.grid)(outputs, **options)
        return outputs

    def _call_in_float(
        self, node: GraphNode, planned: LayerPlan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Calls the copy of a layer in float32 on dequantized inputs, and quantizes its outputs."""
        layer = self.copies.of(node.operation, lambda layer: _float_copy(layer, planned))
        args, kwargs = keras.tree.map_structure(self._off_its_grid, (args, kwargs))
        outputs = layer(*args, **with_masks(layer, args, kwargs))
        found = []
        for start, tensor in zip(planned.starts, keras.tree.flatten(outputs), strict=True):
            if start is None:
                self._in_float[id(tensor)] = tensor
            found.append(tensor if start is None else self.quantizer_of(start)(tensor))
        return keras.tree.pack_sequence_as(outputs, found)

    def _off_its_grid(self, argument: Any) -> Any:
        key = id(argument)
        if not isinstance(argument, keras.KerasTensor) or key in self._in_float:
            return argument
        if key not in self._dequantized:
            source = layer_name(argument).removesuffix("_quantizer")
            name = unused_name(f"{source}_dequantize", self._taken)
            self._dequantized[key] = Dequantize(name=name)(argument)
        return self._dequantized[key]

    def _source(self, grid: int, place: Place) -> dict[str, int]:
        """The index of a tensor among the tensors on a shared grid, for its quantizer."""
        places = [tensor.place for tensor in self._plan.grids[grid].tensors]
        return {"source": places.index(place)} if len(places) > 1 else {}

    def _unique(self, name: str) -> str:
        return unused_name(f"{name}_quantizer", self._taken)


def _quantized_copy(layer: Any, planned: LayerPlan) -> Any:
    """A copy of the layer, in a wrapper if it is a weight layer."""
    rule = planned.rule
    if rule.stand_in is not None:
        return rule.stand_in(layer)
    if rule.wrapper is None:
        return copy_of(layer)
    wrapper: Any = rule.wrapper
    options: dict[str, Any] = {"one_scale": True} if planned.one_scale else {}
    gain = planned.input_gain
    return wrapper(copy_of(layer), planned.weight_quantizer(), input_gain=gain, **options)


def _float_copy(layer: Any, planned: LayerPlan) -> Any:
    """A copy of a layer that computes in float32.

    If the plan makes the layer weight-only, the copy is wrapped and has one quantizer for each
    kernel. If the layer is left in float, or its rule has no wrapper, the copy is plain. A wrapper
    of a layer on grids computes in float32 as well where no grid is before it.
    """
    # The dtype is float32 for any dtype policy, because the runtimes compute these in float32.
    if planned.config is None or planned.rule.wrapper is None:
        return float_copy_of(layer, **_in_float32(layer))
    copy, wrapper = copy_of(layer, **_in_float32(layer)), planned.rule.wrapper
    if issubclass(wrapper, QuantizeWrapper):
        return wrapper(copy, planned.weight_quantizer())
    return wrapper(copy, [planned.weight_quantizer() for _ in kernel_places(layer)])


def _in_float32(layer: Any) -> dict[str, Any]:
    """The change of a configuration to float32, if it states a dtype."""
    try:
        return {"dtype": "float32"} if "dtype" in config_of(layer) else {}
    except ValueError:  # without a configuration, it becomes a `LivingLayer` in float32
        return {}
