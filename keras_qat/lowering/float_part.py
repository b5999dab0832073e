"""Lowers layers in float to a float32 network, written by TensorFlow's converter."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from keras_qat.errors import LoweringError
from keras_qat.integer import GraphBuilder, QuantParams, ops
from keras_qat.integer.own_files import note_as_own
from keras_qat.keras_graph import GraphNode
from keras_qat.lowering.pending import Pending

Weights = dict[int, tuple[ops.FloatWeight, ...]]
"""The learned integers of layers in float, by `id(layer)`."""


@runtime_checkable
class HoldsFloatWeights(Protocol):
    """A layer in float whose kernels are learned integers."""

    def float_weights(self) -> tuple[ops.FloatWeight, ...]:
        """The learned integers of every kernel, output channels first."""

    def call_with(self, weights: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Calls the layer with these values, output channels last, instead of its kernels."""


@dataclasses.dataclass(frozen=True, eq=False)
class PendingFloat(Pending):
    """A tensor in float, and all calls between it and the grids before it.

    Attributes:
        places: the symbolic tensors that the calls start from, one for each of `sources`.
        tensor: the symbolic tensor that the calls end in.
        calls: the calls, in an order in which they can run.
    """

    places: tuple[Any, ...] = dataclasses.field(kw_only=True)
    tensor: Any = dataclasses.field(kw_only=True)
    calls: tuple[GraphNode, ...] = ()

    def clamped_at_zero(self, builder: GraphBuilder) -> Pending | None:
        """`None`: QUANTIZE saturates only at the ends of int8."""
        return None

    def finalize(self, builder: GraphBuilder, name: str, output: QuantParams) -> ops.IntegerOp:
        return self._part(builder, name, ops.FloatPart)

    def result(self, builder: GraphBuilder, name: str) -> ops.IntegerOp:
        """The op that writes tensor `name` in float32, on no grid."""
        return self._part(builder, name, ops.FloatResult)

    def _names(self) -> tuple[str, ...]:
        """The names of the calls, without operations that compute masks."""
        named = [call for call in self.calls if call.outputs[0].dtype != "bool"]
        return tuple(dict.fromkeys(call.operation.name for call in named or self.calls))

    def _part(self, builder: GraphBuilder, name: str, kind: type[ops.FloatPart]) -> ops.FloatPart:
        tensors = [builder.tensor(source) for source in self.sources]
        signature = [(each.shape, "float32" if each.on_grid else each.dtype) for each in tensors]
        weights = {
            id(layer): layer.float_weights()
            for layer in (call.operation for call in self.calls)
            if isinstance(layer, HoldsFloatWeights)
        }
        file = _converted(self, signature, weights)
        note_as_own(file)
        return kind(
            self.sources,
            name,
            file=np.frombuffer(file, np.uint8),
            layers=self._names(),
            target_shape=tuple(self.tensor.shape[1:]),
            weights=tuple(weight for found in weights.values() for weight in found),
        )


def call_in_float(node: GraphNode, operands: Sequence[PendingFloat]) -> list[PendingFloat]:
    """The outputs of a call on tensors in float."""
    pairs = [pair for each in operands for pair in zip(each.places, each.sources, strict=True)]
    sources = {id(place): source for place, source in pairs}
    places = {id(place): place for place, _ in pairs}
    calls = {id(call): call for each in operands for call in each.calls}
    return [
        PendingFloat(
            tuple(sources.values()),
            places=tuple(places.values()),
            tensor=tensor,
            calls=(*calls.values(), node),
        )
        for tensor in node.outputs
    ]


def _converted(
    part: PendingFloat, signature: Sequence[tuple[ops.Shape, str]], weights: Weights
) -> bytes:
    """A `.tflite` file of float32 builtin operators, for one example in inference mode.

    Quantized kernels are its last inputs, as the converter could fold or transpose a constant.
    Their channels come first: operators mostly read them so. And where a Dense has no bias, the
    converter makes a BATCH_MATMUL of a kernel with its channels last, and loses a ReLU behind it.

    Raises:
        LoweringError: the backend is not TensorFlow, or an operation has no such operators.
    """
    names = ", ".join(repr(call.operation.name) for call in part.calls)
    if keras.backend.backend() != "tensorflow":
        raise LoweringError(
            f"The layers {names} stay in float, and only TensorFlow can convert them. Save the "
            "model, load it with KERAS_BACKEND=tensorflow and export it there; if TensorFlow is "
            'missing, pip install "keras_qat[tensorflow]". '
            f"Received: backend {keras.backend.backend()!r}"
        )
    import tensorflow as tf

    def network(*inputs: Any) -> Any:
        given = zip(part.places, inputs, strict=False)
        values = {id(place): tf.cast(x, place.dtype) for place, x in given}
        left = iter(inputs[len(part.places) :])
        kernels = {
            key: [_channels_last(next(left)) for _ in found] for key, found in weights.items()
        }
        for call in part.calls:
            outputs = keras.tree.flatten(_called(call, values, kernels))
            pairs = zip(call.outputs, outputs, strict=True)
            values.update((id(tensor), output) for tensor, output in pairs)
        return values[id(part.tensor)]

    try:
        flat = (weight for found in weights.values() for weight in found)
        shapes = [(weight.array.values.shape, "float32") for weight in flat]
        specs = [tf.TensorSpec(*each) for each in (*signature, *shapes)]
        traced = tf.function(network, autograph=False).get_concrete_function(*specs)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], tf.Module())
        converter.experimental_lower_to_saved_model = False  # True would keep weights as variables
        file: bytes = converter.convert()
    except Exception as error:  # the converter raises errors of many types
        raise LoweringError(
            f"The layers {names} cannot be converted to a float32 network by TensorFlow's "
            f"converter: {error}"
        ) from error
    return file


def _channels_last(kernel: Any) -> Any:
    return keras.ops.moveaxis(kernel, 0, -1)


def _called(call: GraphNode, values: dict[int, Any], kernels: dict[int, list[Any]]) -> Any:
    args, kwargs = call.fill_in(values)
    layer = call.operation
    if isinstance(layer, HoldsFloatWeights):
        return layer.call_with(kernels[id(layer)], *args, **{**kwargs, "training": False})
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = False
    return layer(*args, **kwargs)
