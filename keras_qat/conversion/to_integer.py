"""From the trained model to the integer graph: calls the lower function of every layer in order."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_qat.conversion.float_ends import float_ends
from keras_qat.conversion.next_on_grid import on_no_grid
from keras_qat.conversion.tensor_names import tensor_names
from keras_qat.errors import DIVERGED, LoweringError
from keras_qat.integer import GraphBuilder, IntegerGraph
from keras_qat.integer.graph import NO_GRID
from keras_qat.integer.reshapes import without_needless_reshapes
from keras_qat.keras_graph import GraphNode, consumers, input_keys, nodes, replay
from keras_qat.keras_masks import is_mask_name
from keras_qat.layer_rules.rule import Output
from keras_qat.layer_rules.table import rule_or_float
from keras_qat.lowering.context import GraphInput, LoweringContext, integer_operand
from keras_qat.lowering.float_part import PendingFloat, call_in_float
from keras_qat.lowering.pending import Pending
from keras_qat.quantized_layers import QuantizeWrapper
from keras_qat.quantizers import Dequantize, PutsOnGrid, Quantizer, SoftmaxRounding
from keras_qat.training.finite_values import non_finite_values, too_large_values


def to_integer(model: keras.Model) -> IntegerGraph:
    """States what a quantized model has learned as an `IntegerGraph`.

    A tensor has the name of the layer that yields it (`"conv_1"` for the second call of a shared
    layer `"conv"`). An input has the name by which the model is fed: its key, if the model was
    built on a dict of inputs, else the name of its input layer. An output has its name in
    the model that `quantize` was given: its key, or the name of its layer. A sequence may be an
    image of one row. An output that is in float, as with `activation_bits=None`, is a float32
    tensor.

    Raises:
        LoweringError: a part of the model has no exact integer form, or holds NaN or infinity.
    """
    _check_finite(model)
    lowering = _Lowering(model)
    inputs = [lowering.start(tensor) for tensor in model.inputs]
    outputs = replay(model, inputs, lowering.call)
    ends = zip(outputs, model.outputs, strict=True)
    graph = lowering.builder.build([lowering.output(*end, model.name) for end in ends])
    order = input_keys(model)  # the builder has added the inputs in another order
    graph = dataclasses.replace(graph, inputs=tuple(sorted(graph.inputs, key=order.index)))
    return without_needless_reshapes(graph)


def _check_finite(model: keras.Model) -> None:
    for layer in model.layers:
        for name, count, size in non_finite_values(layer):
            raise LoweringError(
                f"Layer {layer.name!r} holds NaN or infinity in {count} of {size} values of "
                f"{name!r}, which integers cannot state. {DIVERGED}"
            )
        for name, largest in too_large_values(layer):
            raise LoweringError(
                f"Layer {layer.name!r} holds values up to {largest:.3g} in {name!r}, and their "
                f"products overflow float32. {DIVERGED}"
            )


class _Lowering:
    def __init__(self, model: keras.Model):
        self.builder = GraphBuilder()
        self._names = tensor_names(model)
        self._consumers = consumers(model)
        self._raw_inputs = raw_inputs(model)
        self._float_ends = float_ends(model, (raw.tensor for raw in self._raw_inputs.values()))

    def start(self, tensor: Any) -> GraphInput | PendingFloat:
        """The value of a model input: on no grid, if a layer in float reads it as it is."""
        name = self._names[id(tensor)]
        shape = _shape(tensor, name)
        if name not in self._raw_inputs:
            return GraphInput(name, shape)
        self.builder.add_input(name, shape, NO_GRID, self._raw_inputs[name].dtype)
        return PendingFloat((name,), places=(tensor,), tensor=tensor)

    def output(self, value: Any, tensor: Any, model_name: str) -> str:
        """The name of the tensor that holds an output of the model."""
        if isinstance(value, PendingFloat) and not value.calls:
            return value.sources[0]
        if not isinstance(value, str):
            raise LoweringError(on_no_grid(tensor, model_name))
        return value

    def call(self, node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = node.operation
        operands = list(keras.tree.flatten(args[0])) if args else []
        if isinstance(layer, SoftmaxRounding):
            return operands[0]
        name = self._names[id(node.outputs[0])]
        if isinstance(layer, Quantizer):
            return self._quantize(layer, operands[0], self._names[id(node.inputs[0])])
        if isinstance(layer, Dequantize):
            source = integer_operand(operands[0], layer.name)
            (tensor,) = node.outputs
            return PendingFloat((source,), places=(tensor,), tensor=tensor)
        found = keras.tree.flatten((args, kwargs))
        in_float = [value for value in found if isinstance(value, PendingFloat)]
        data = {name: value for name, value in kwargs.items() if not is_mask_name(name)}
        if any(isinstance(value, PendingFloat) for value in keras.tree.flatten((args, data))):
            values = list(map(self._ended, call_in_float(node, in_float)))
            return values if len(values) > 1 else values[0]
        if isinstance(layer, QuantizeWrapper):
            tensor = integer_operand(operands[0], layer.name)
            return layer.lower(tensor, int(node.option("source", 0)))
        rule = rule_or_float(node)
        if rule.lower is None:
            raise LoweringError(
                f"Layer {layer.name!r} ({type(layer).__name__}) has no integer form, and without a "
                "Dequantize layer before it, it cannot stay in float. Make the model with "
                "keras_qat.quantize."
            )
        if rule.output is Output.ROUND_TO_INPUT and isinstance(operands[0], str):
            self._check_rounded(node)
        shape = _shape(node.outputs[0], name)[1:]
        return rule.lower(layer, operands, LoweringContext(self.builder, name, shape))

    def _ended(self, value: PendingFloat) -> PendingFloat:
        """What layers in float yield: the end of a part, or a tensor that its next layers read."""
        name = self._names[id(value.tensor)]
        _shape(value.tensor, name)
        if id(value.tensor) not in self._float_ends:
            return value
        self.builder.add(value.result(self.builder, name), NO_GRID)
        return PendingFloat((name,), places=(value.tensor,), tensor=value.tensor)

    def _check_rounded(self, node: GraphNode) -> None:
        """The integer op rounds to the grid of its input, so the model must round there as well."""
        readers = self._consumers.get(id(node.outputs[0]), [])
        if not any(reader and isinstance(reader.operation, Quantizer) for reader in readers):
            raise LoweringError(
                f"Layer {node.operation.name!r} ({type(node.operation).__name__}) follows a "
                "Softmax and has no quantizer behind it, so the model has no integer form."
            )

    def _quantize(self, quantizer: Quantizer, value: Any, name: str) -> str:
        qparams = quantizer.qparams()
        if isinstance(value, GraphInput):
            return self.builder.add_input(value.name, value.shape, qparams.placed_in_int8())
        if isinstance(value, Pending):
            return value.emit(self.builder, name, qparams)
        placed, found = qparams.placed_in_int8(), self.builder.tensor(value).qparams
        if (placed.scale, placed.zero_point) != (found.scale, found.zero_point):
            raise LoweringError(
                f"Tensor {value!r} is on a grid already, and quantizer {quantizer.name!r} has "
                "another grid: this would need a second rounding."
            )
        tensor: str = value
        return tensor


@dataclasses.dataclass(frozen=True, eq=False)
class RawTensor:
    """An input or an output of a model that is on no grid, and its dtype in the integer graph."""

    tensor: Any
    dtype: str


def raw_inputs(model: keras.Model) -> dict[str, RawTensor]:
    """Every model input that only layers in float read, by its name in the integer graph."""
    readers = consumers(model)
    found = {}
    for key, tensor in zip(input_keys(model), model.inputs, strict=True):
        layers = [node.operation for node in readers.get(id(tensor), []) if node is not None]
        if layers and not any(isinstance(layer, Quantizer) for layer in layers):
            dtype = "float32" if keras.backend.is_float_dtype(tensor.dtype) else "int32"
            found[key] = RawTensor(tensor, dtype)
    return found


def raw_outputs(model: keras.Model) -> dict[str, RawTensor]:
    """Every model output that is on no grid, by its name in the integer graph.

    Layers in float yield float32. The place of a largest value is int32.
    """
    ends = float_ends(model, (raw.tensor for raw in raw_inputs(model).values()))
    names = tensor_names(model)
    found = {id(tensor): "float32" for tensor in model.outputs if id(tensor) in ends}
    for node in nodes(model):
        if rule_or_float(node).output is Output.INDEX:
            found[id(node.outputs[0])] = "int32"
    return {
        names[id(tensor)]: RawTensor(tensor, found[id(tensor)])
        for tensor in model.outputs
        if id(tensor) in found
    }


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A tensor before (`source`) and after a layer puts it on its grid, and that layer."""

    source: Any
    tensor: Any
    quantizer: PutsOnGrid


def quantized_tensors(model: keras.Model) -> dict[str, QuantizedTensor]:
    """Every tensor that a layer puts on its grid, by its name in the integer graph."""
    names = tensor_names(model)
    return {
        names[id(node.inputs[0])]: QuantizedTensor(node.inputs[0], node.outputs[0], node.operation)
        for node in nodes(model)
        if isinstance(node.operation, PutsOnGrid)
    }


def placed_codes(values: Any, quantizer: PutsOnGrid) -> np.ndarray:
    """Values that are on the grid of `quantizer`, as int8 codes of the integer graph."""
    return quantizer.qparams().placed_in_int8().quantize(values).astype(np.int8)


def _shape(tensor: Any, name: str) -> tuple[int, ...]:
    if any(size is None for size in tensor.shape[1:]):
        raise LoweringError(
            f"Tensor {name!r} has an unknown size: {tensor.shape}. An integer model has fixed "
            "shapes. Give the trained model a fixed shape: clone = keras.models.clone_model("
            "qmodel, input_tensors=keras.Input((height, width, channels))), then "
            "clone.set_weights(qmodel.get_weights()), and export the clone."
        )
    return (1, *tensor.shape[1:])
