"""Pass: raw operations such as `x + y` become layers, and inner models are taken apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_qat.copying import copy_of
from keras_qat.keras_graph import (
    GraphNode,
    flat_inputs,
    is_graph,
    nodes,
    packed_outputs,
    rebuild,
    replay,
)
from keras_qat.layer_rules.inherited import computing_kind
from keras_qat.names import unused_name
from keras_qat.quantization.passes.equal_forms import EqualForms, is_one_function
from keras_qat.quantization.passes.functions import function_layer
from keras_qat.quantization.passes.layer_copies import LayerCopies, float_copy_of
from keras_qat.quantization.passes.paths import set_path
from keras_qat.quantization.passes.raw_operations import is_constant, layers_of, regions_of
from keras_qat.quantization.passes.recipes import Chain, Link, Recipe
from keras_qat.quantization.passes.tracing import expanded, may_expand

layers = keras.layers

Arguments = tuple[Any, ...]
Options = dict[str, Any]

_OF_TWO = (layers.Add, layers.Maximum, layers.Minimum, layers.Multiply, layers.Subtract)


def to_layers(
    model: keras.Model, stays_whole: Callable[[str], bool] = lambda name: False
) -> keras.Model:
    """An equal model of layers; raw operations without a matching layer stay.

    Some examples:

    * `x + y`, `x - y`, `x * y`, maxima and minima of two tensors become `Add`, `Subtract`,
      `Multiply`, `Maximum` and `Minimum`.
    * A slice with steps over height and width becomes a `Cropping2D` and a `MaxPooling2D` of one
      pixel. A slice of channels becomes the same layers between two `Permute`.
    * Zeros around channels become a `ZeroPadding2D` between two `Permute`.

    The last layer takes the name of the operation. A model inside the model is replaced by its
    layers, under their names if these are free. So is a custom layer made of layers, unless
    `stays_whole(name)`. As in Keras, `training=False` given to an inner model while a graph is
    built does not outlast `fit`, and `trainable=False` does. A model with nothing to change is
    returned itself.
    """
    forms = EqualForms()
    if all(_is_plain_layer(node, forms) for node in nodes(model)):
        return model
    builder = _Builder(model, stays_whole)
    result = rebuild(model, builder.call)
    builder.copies.copy_weights()
    return result


class _Builder:
    def __init__(self, model: keras.Model, stays_whole: Callable[[str], bool]):
        self._stays_whole = stays_whole
        self.copies = LayerCopies()
        self._forms = EqualForms()
        self._outer = {id(layer) for layer in model.layers}  # these keep their names
        self._taken = {layer.name for layer in model.layers}
        self._inside: list[str] = []  # the names of the inner models around a call
        self._regions = regions_of(model)
        self._values_so_far: dict[int, Any] = {}  # by the id of the old tensor
        self._replaced: dict[int, Any] = {}
        self._named: dict[int, tuple[Any, str]] = {}  # layers that take the name of another
        self._freed: set[str] = set()  # of layers that are taken apart

    def call(self, node: GraphNode, args: Arguments, kwargs: Options) -> Any:
        """Replaces one call in the graph."""
        operation = node.operation
        if is_graph(operation):
            self._inside.append(operation.name)
            outputs = self._replayed(operation, flat_inputs(operation, args[0]))
            self._inside.pop()
            return packed_outputs(operation, outputs)
        if isinstance(operation, layers.Layer):
            return self._call_layer(node, args, kwargs)
        function = self._function_of_several(node, args, kwargs)
        if function is not None:
            return function
        recipe = layers_of(node)
        if recipe is None:
            return operation(*args, **kwargs)
        values = self._values(node, args, kwargs)
        operands = [values[id(tensor)] for tensor in node.inputs]
        return self._apply(recipe, operation, operands)

    def _call_layer(self, node: GraphNode, args: Arguments, kwargs: Options) -> Any:
        layer = node.operation
        whole = self._stays_whole(layer.name)
        form = None if whole else self._forms.of(node)
        graph = form.graph if form is not None else None if whole else expanded(node)
        if graph is None:
            return self.copies.of(layer, self._float_copy if whole else self._copy)(*args, **kwargs)
        values = list(self._values(node, args, kwargs).values())
        if form is None and is_one_function(graph):
            return self._linked(function_layer(graph), self._name_given_away(layer), values[0])
        if form is not None:
            name = self._name_given_away(layer)
            if form.named is not None and id(form.named) not in self._named:
                self._named[id(form.named)] = (form.named, unused_name(name, self._taken))
        elif id(layer) in self._outer:
            self._freed.add(layer.name)
        return packed_outputs(graph, self._replayed(graph, values))

    def _replayed(self, graph: keras.Model, inputs: list[Any]) -> list[Any]:
        outer = self._regions
        self._regions = regions_of(graph)
        outputs = replay(graph, inputs, self.call)
        self._regions = outer
        return outputs

    def _function_of_several(self, node: GraphNode, args: Arguments, kwargs: Options) -> Any:
        """The table of all operations that end in this one; `None` if it is on its own."""
        tensor = node.outputs[0]
        self._values_so_far.update(self._values(node, args, kwargs))
        if id(tensor) in self._regions.results:
            root, graph = self._regions.results[id(tensor)]
            value = self._values_so_far[id(root)]
            return self._linked(function_layer(graph), node.operation.name, value)
        if id(tensor) in self._regions.inside:
            return node.operation(*args, **kwargs)  # it is part of a table, and nothing reads it
        return None

    @staticmethod
    def _values(node: GraphNode, args: Arguments, kwargs: Options) -> dict[int, Any]:
        """The value of each distinct input, by the id of the old tensor."""
        given = [x for x in keras.tree.flatten((args, kwargs)) if not is_constant(x)]
        return {id(x): value for x, value in zip(node.inputs, given, strict=True)}

    def _name_given_away(self, layer: Any) -> str:
        """The name of a layer that is not in the new model, free from its first call on."""
        name: str = self._named.get(id(layer), (layer, layer.name))[1]
        has_name = id(layer) in self._outer or id(layer) in self._named
        if has_name and id(layer) not in self._replaced:
            self._replaced[id(layer)] = layer
            self._taken.discard(name)
        return name

    def _copy(self, layer: Any) -> Any:
        kind = computing_kind(layer)
        if id(layer) in self._named:
            return copy_of(layer, kind, name=self._named[id(layer)][1])
        copy = copy_of(layer, kind, **self._new_name(layer))
        set_path(copy, [*self._inside, layer.name])
        return copy

    def _float_copy(self, layer: Any) -> Any:
        copy = float_copy_of(layer, **self._new_name(layer))
        set_path(copy, [*self._inside, layer.name])
        return copy

    def _new_name(self, layer: Any) -> Options:
        if id(layer) in self._outer:
            return {}
        if layer.name in self._freed:  # the one layer that a custom layer becomes
            self._freed.discard(layer.name)
            return {}
        return {"name": unused_name(layer.name, self._taken)}

    def _apply(self, recipe: Recipe, operation: Any, tensors: list[Any]) -> Any:
        name = operation.name
        if recipe.join is not None:
            chains = recipe.before or ([],) * len(tensors)
            pairs = zip(chains, tensors, strict=True)
            operands = [self._chained(chain, name, tensor) for chain, tensor in pairs]
            last = recipe.outputs == ([],)
            joined = self._linked(recipe.join, name, operands, last)
            if last:
                return joined
            tensors = [joined]
        merges = recipe.outputs[0][0][0] in (*_OF_TWO, layers.Concatenate)
        value = tensors if merges else tensors[0]
        found = [
            self._linked(chain[-1], name, self._chained(chain[:-1], name, value))
            for chain in recipe.outputs
        ]
        return found if len(found) > 1 else found[0]

    def _chained(self, chain: Chain, name: str, value: Any) -> Any:
        for link in chain:
            value = self._linked(link, name, value, last=False)
        return value

    def _linked(self, link: Link, name: str, value: Any, last: bool = True) -> Any:
        """A new layer on a value. The last one takes the name of the replaced operation."""
        kind, options = link
        name = name if last else f"{name}_{kind.__name__.lower()}"
        return kind(**options, name=unused_name(name, self._taken))(value)


def _is_plain_layer(node: GraphNode, forms: EqualForms) -> bool:
    layer = node.operation
    if not isinstance(layer, layers.Layer) or is_graph(layer) or may_expand(layer):
        return False
    return computing_kind(layer) is type(layer) and forms.of(node) is None
