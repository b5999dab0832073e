"""Symbolic tensors stand for the own variables of a custom layer while its call is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_qat.keras_graph import with_inner_layers


class OwnWeightError(Exception):
    """A use of an own weight that no layer states. The message says which."""


class _StandIn(keras.KerasTensor):
    """A symbolic tensor instead of a variable, which can be indexed like one."""

    @property
    def value(self) -> _StandIn:
        return self

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        sizes: list[int] = list(self.shape)
        shape: list[int] = []
        axis = 0
        for each in keys:
            if each is None:
                shape.append(1)
                continue
            plain = isinstance(each, slice) and each.start in (None, 0) and each.step in (None, 1)
            if not plain:
                raise OwnWeightError(f"the index {key!r}")
            sizes[axis] = len(range(*each.indices(sizes[axis])))
            shape.append(sizes[axis])
            axis += 1
        part = ops.slice(self, (0,) * len(sizes), sizes) if sizes != list(self.shape) else self
        return ops.reshape(part, (*shape, *sizes[axis:]))


@contextlib.contextmanager
def stand_ins(layer: Any) -> Iterator[dict[int, tuple[Any, Any]]]:
    """Symbolic tensors stand for the own variables of a layer, and of embeddings inside it.

    Yields: by the id of each symbolic tensor, the tensor and its variable.
    """
    holders = [
        layer,
        *(each for each in with_inner_layers(layer) if type(each) is keras.layers.Embedding),
    ]
    places = [
        (holder, name, value)
        for holder in holders
        for name, value in vars(holder).items()
        if isinstance(value, keras.Variable) and keras.backend.is_float_dtype(value.dtype)
    ]
    of_variables: dict[int, Any] = {}
    for _, _, variable in places:
        of_variables.setdefault(id(variable), _stand_in(variable))
    found = {id(of_variables[id(each)]): (of_variables[id(each)], each) for _, _, each in places}
    try:
        for holder, name, variable in places:
            object.__setattr__(holder, name, of_variables[id(variable)])
        yield found
    finally:
        for holder, name, variable in places:
            object.__setattr__(holder, name, variable)


def _stand_in(variable: Any) -> Any:
    tensor = keras.Input(batch_shape=tuple(variable.shape), dtype=variable.dtype)
    tensor.__class__ = _StandIn
    return tensor
