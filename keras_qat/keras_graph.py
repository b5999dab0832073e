"""The one file that knows Keras' private attributes: of graphs and of kernels."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

KerasTensor = keras.KerasTensor


@dataclasses.dataclass(frozen=True, eq=False)
class GraphNode:
    """One call of one operation in a Functional graph.

    Attributes:
        operation: the layer (or raw op) that is called.
        inputs: the symbolic tensors it reads.
        outputs: the symbolic tensors it yields.
        call_index: 0 for the operation's first call in this graph, 1 for its second, ...
    """

    operation: Any
    inputs: tuple[KerasTensor, ...]
    outputs: tuple[KerasTensor, ...]
    call_index: int
    _arguments: Any

    def option(self, name: str, default: Any) -> Any:
        """What the call gives for a keyword."""
        return self._arguments.kwargs.get(name, default)

    def fill_in(self, values: dict[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments with every symbolic tensor replaced by `values[id(tensor)]`.

        The first argument comes by position, even where the model was built with
        `layer(inputs=x)`: what stands in for the layer may call it otherwise.
        """
        args, kwargs = self._arguments.fill_in(values)
        first = next(iter(inspect.signature(self.operation.call).parameters))
        if not args and first in kwargs:
            args = (kwargs.pop(first),)
        return args, kwargs


def functional(model: keras.Model) -> Any:
    """The Functional graph of a Functional or a built Sequential model.

    Raises:
        ValueError: a model without a graph; the message says what to do.
    """
    graph = model
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(
                f"The Sequential model {model.name!r} has no input shape yet. Start it with "
                "keras.Input(...) or call model.build(input_shape) first."
            )
        graph = model._functional
    if not hasattr(graph, "_nodes_by_depth"):
        raise ValueError(
            "Only Functional and Sequential models have a layer graph to work on. Rebuild the "
            f"model with keras.Model(inputs, outputs). Received: {type(model).__name__} "
            f"{getattr(model, 'name', '')!r}"
        )
    return graph


def is_graph(operation: Any) -> bool:
    """Whether an operation is itself a model with a layer graph."""
    built_sequential = isinstance(operation, keras.Sequential) and operation.built
    return built_sequential or hasattr(operation, "_nodes_by_depth")


def packed_outputs(model: keras.Model, outputs: list[Any]) -> Any:
    """The values of the model's outputs in the structure that a call of it returns."""
    return keras.tree.pack_sequence_as(functional(model)._outputs_struct, outputs)


def flat_nodes(model: keras.Model) -> Iterator[GraphNode]:
    """As `nodes`, with the calls inside a model in the place of the model's call."""
    for node in nodes(model):
        if is_graph(node.operation):
            yield from flat_nodes(node.operation)
        else:
            yield node


def nodes(model: keras.Model) -> Iterator[GraphNode]:
    """Every call in the graph, inputs excluded, in an order in which it can run."""
    by_depth = functional(model)._nodes_by_depth
    calls: Counter[int] = Counter()
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.is_input or node.operation is None:
                continue
            call_index = calls[id(node.operation)]
            calls[id(node.operation)] += 1
            yield GraphNode(
                operation=node.operation,
                inputs=tuple(node.input_tensors),
                outputs=tuple(node.outputs),
                call_index=call_index,
                _arguments=node.arguments,
            )


def layer_name(tensor: KerasTensor) -> str:
    """Name of the layer that yields this tensor."""
    name: str = tensor._keras_history.operation.name
    return name


def input_name(tensor: KerasTensor) -> str:
    """Name of the input layer that yields this model input."""
    return layer_name(tensor)


def replay(
    model: keras.Model,
    inputs: list[Any],
    call: Callable[[GraphNode, tuple[Any, ...], dict[str, Any]], Any],
) -> list[Any]:
    """Runs the graph once, with `call` in the place of every operation.

    Args:
        model: Functional or built Sequential model.
        inputs: one value for each of the model's inputs, in the order of `model.inputs`; tensors
            or anything else that `call` understands.
        call: `call(node, args, kwargs)` returns what takes the place of the node's output.

    Returns:
        The values of the model's outputs, in the order of `model.outputs`.
    """
    graph = functional(model)
    values = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
    for node in nodes(model):
        args, kwargs = node.fill_in(values)
        result = call(node, args, kwargs)
        for tensor, value in zip(node.outputs, _flatten(result, len(node.outputs)), strict=True):
            values[id(tensor)] = value
    return [values[id(tensor)] for tensor in graph.outputs]


def rebuild(
    model: keras.Model,
    call: Callable[[GraphNode, tuple[Any, ...], dict[str, Any]], Any],
    on_input: Callable[[KerasTensor], Any] = lambda tensor: tensor,
    model_type: type[keras.Model] = keras.Model,
) -> keras.Model:
    """A new model from a replay on fresh inputs; names and input/output structures are kept.

    Args:
        model: Functional or built Sequential model.
        call: as in `replay`.
        on_input: what to put behind each fresh input.
        model_type: class of the new model.
    """
    graph = functional(model)
    fresh = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=input_name(tensor))
        for tensor in graph.inputs
    ]
    outputs = replay(model, [on_input(tensor) for tensor in fresh], call)
    return model_type(
        keras.tree.pack_sequence_as(graph._inputs_struct, fresh),
        keras.tree.pack_sequence_as(graph._outputs_struct, outputs),
        name=model.name,
    )


def consumers(model: keras.Model) -> dict[int, list[GraphNode | None]]:
    """Who reads each symbolic tensor, by `id(tensor)`; `None` stands for a model output."""
    graph = functional(model)
    found: dict[int, list[GraphNode | None]] = {}
    for node in nodes(model):
        for tensor in node.inputs:
            found.setdefault(id(tensor), []).append(node)
    for tensor in graph.outputs:
        found.setdefault(id(tensor), []).append(None)
    return found


def _flatten(result: Any, count: int) -> list[Any]:
    """The values of a call's result; a single output may be any object at all."""
    return [result] if count == 1 else list(keras.tree.flatten(result))


@dataclasses.dataclass(frozen=True, eq=False)
class KernelPlace:
    """Where a layer, or a layer inside it, holds a kernel that it computes with.

    Attributes:
        name: of the kernel inside the layer; empty where it is the layer's only one.
        holder: the layer that has it as an attribute.
        attribute: the name of that.
        equation: the einsum that multiplies with it; empty for a table that is looked up.
    """

    name: str
    holder: Any
    attribute: str
    equation: str = ""

    @property
    def latent(self) -> Any:
        """The float32 variable that trains."""
        return getattr(self.holder, self.attribute)


ATTENTION = (keras.layers.GroupQueryAttention, keras.layers.MultiHeadAttention)
_ATTENTION_PARTS = ("query", "key", "value", "gate", "output")


def kernel_places(layer: Any) -> tuple[KernelPlace, ...]:
    """The kernels of a built EinsumDense, Embedding or attention layer; of others none."""
    if isinstance(layer, keras.layers.Embedding):
        return (KernelPlace("", layer, "_embeddings"),)
    if isinstance(layer, keras.layers.EinsumDense):
        return (KernelPlace("", layer, "_kernel", layer.equation),)
    if not isinstance(layer, ATTENTION):
        return ()
    inner = {part: getattr(layer, f"_{part}_dense", None) for part in _ATTENTION_PARTS}
    return tuple(
        KernelPlace(part, dense, "_kernel", dense.equation)
        for part, dense in inner.items()
        if dense is not None
    )


@contextlib.contextmanager
def kernels_replaced(places: Sequence[KernelPlace], values: Sequence[Any]) -> Iterator[None]:
    """Inside, the layers compute with these values; Keras' own tracking does not see them."""
    latent = [place.latent for place in places]
    for place, value in zip(places, values, strict=True):
        object.__setattr__(place.holder, place.attribute, value)
    try:
        yield
    finally:
        for place, variable in zip(places, latent, strict=True):
            object.__setattr__(place.holder, place.attribute, variable)
