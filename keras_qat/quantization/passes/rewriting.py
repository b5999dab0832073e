"""Rebuilds a model with layers replaced by chains of layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_qat.keras_graph import GraphNode, rebuild
from keras_qat.names import unused_name
from keras_qat.quantization.passes.layer_copies import (
    LayerCopies,
    StaysFloat,
    float_copy_of,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A new layer that replaces a user's layer, alone or in a chain.

    It gets the weights `source.weights[first:behind]` once it is built.

    Attributes:
        layer: the new layer, not built yet.
        source: the user's layer with its weights; `None` for no weights.
        first: the index of the first weight.
        behind: the index after the last weight; `None` for the end.
    """

    layer: Any
    source: Any = None
    first: int = 0
    behind: int | None = None


class Names:
    """The names of a model's layers and of the layers that are added to it.

    Attributes:
        origins: name of an added layer -> name of the user's layer that it belongs to.
    """

    def __init__(self, model: keras.Model):
        self._taken = {layer.name for layer in model.layers}
        self.origins: dict[str, str] = {}

    def new(self, name: str, origin: str = "") -> str:
        """A name that no layer has yet. The origin is recorded, if there is one."""
        found = unused_name(name, self._taken)
        if origin:
            self.origins[found] = origin
        return found


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """A rule that replaces a layer by a chain of layers.

    Attributes:
        applies: tells whether the rule replaces a layer.
        parts: makes the chain.
    """

    applies: Callable[[Any], bool]
    parts: Callable[[Part, Names], Iterable[Part]]


class Rewriting:
    """Builds a model in which layers are replaced until no rewrite applies.

    Args:
        model: the model.
        rewrites: the rewrites. The first one that applies replaces a layer, and its parts are
            replaced in turn.
        stays_float: tells for a layer name whether the layer is left in float, and so as it is.
    """

    def __init__(self, model: keras.Model, rewrites: Sequence[Rewrite], stays_float: StaysFloat):
        self.names = Names(model)
        self.copies = LayerCopies()
        self._model = model
        self._rewrites = rewrites
        self._stays_float = stays_float
        self._chains: dict[int, tuple[Any, list[Part]]] = {}

    def applies(self) -> bool:
        """Whether any layer of the model would be replaced."""
        return any(self._rewrite_of(layer) for layer in self._model.layers)

    def rebuilt(self, call: Callable[..., Any] | None = None) -> keras.Model:
        """The new model, with the weights of the old one.

        Args:
            call: see `keras_graph.rebuild`; `Rewriting.call` by default.
        """
        result = rebuild(self._model, self.call if call is None else call)
        self.copies.copy_weights()
        for _, chain in self._chains.values():
            for part in chain:
                if part.source is not None:
                    weights = part.source.get_weights()[part.first : part.behind]
                    part.layer.set_weights(weights)
        return result

    def call(self, node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replaces one call in the graph."""
        layer = node.operation
        if self._rewrite_of(layer) is None:
            make = float_copy_of if self._stays_float(layer.name) else None
            return self.copies.of(layer, make)(*args, **kwargs)
        first, *others = self._chain_of(layer)
        outputs = first.layer(*args, **kwargs)
        for part in others:
            outputs = part.layer(outputs)
        return outputs

    def _rewrite_of(self, layer: Any) -> Rewrite | None:
        if not isinstance(layer, keras.layers.Layer) or self._stays_float(layer.name):
            return None
        return next((each for each in self._rewrites if each.applies(layer)), None)

    def _chain_of(self, layer: Any) -> list[Part]:
        if id(layer) not in self._chains:
            self._chains[id(layer)] = (layer, self._replaced(Part(layer, layer)))
        return self._chains[id(layer)][1]

    def _replaced(self, part: Part) -> list[Part]:
        rewrite = self._rewrite_of(part.layer)
        if rewrite is None:
            return [part]
        return [each for inner in rewrite.parts(part, self.names) for each in self._replaced(inner)]
