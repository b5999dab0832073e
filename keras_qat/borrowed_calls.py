"""Knows Keras' private attributes of a call that borrows the code of another layer."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_qat.keras_graph import with_inner_layers
from keras_qat.keras_precision import in_float32

Pairs = Sequence[tuple[Any, Any]]
"""Variables of a layer, each with the variable of another layer that stands for it."""


@dataclasses.dataclass(frozen=True)
class Borrowed:
    """The results of a borrowed call: outputs, new values of variables, and added losses."""

    outputs: Any
    updates: tuple[tuple[Any, Any], ...]
    losses: tuple[Any, ...]


def borrowed_call(
    layer: Any,
    pairs: Pairs,
    trainable: Sequence[bool],
    args: Any,
    kwargs: Any,
    halves: bool = False,
) -> Borrowed:
    """Calls a layer on other variables. The layer itself stays as it is.

    Args:
        layer: the layer whose code runs.
        pairs: its variables, and the variables whose values count.
        trainable: whether the layer, and each layer inside it, is trainable in this call.
        args: the positional arguments.
        kwargs: the keyword arguments.
        halves: whether it computes in its own dtype; by default in float32 instead of halves.
    """
    inner = with_inner_layers(layer)
    seen = [set(each._loss_ids) for each in inner]
    scope = keras.StatelessScope(state_mapping=list(pairs), collect_losses=True)
    before = dict(scope.state_mapping)
    try:
        with in_float32([] if halves else inner), _trainable(inner, trainable), scope:
            outputs = layer(*args, **kwargs)
    finally:
        for each, ids in zip(inner, seen, strict=False):
            each._loss_ids = ids
    now = scope.state_mapping
    updates = tuple(
        (ours, now[id(theirs)])
        for theirs, ours in pairs
        if now[id(theirs)] is not before[id(theirs)]
    )
    return Borrowed(outputs, updates, tuple(scope.losses))


def called_like(layer: Any, other: Any, first: str = "") -> None:
    """Makes Keras pass `layer` the arguments that it passes `other`, and `training` in any case.

    Args:
        layer: the layer that is called.
        other: the layer whose `call` names the arguments.
        first: the name of another argument before them; empty for none.
    """
    signature = inspect.signature(other.call)
    if first:
        extra = inspect.Parameter(first, inspect.Parameter.POSITIONAL_ONLY)
        found = [extra, *signature.parameters.values()]
        signature = signature.replace(parameters=found)
    names = list(signature.parameters)
    if "training" not in names:
        kind = inspect.Parameter.KEYWORD_ONLY
        told = inspect.Parameter("training", kind, default=None)
        found = list(signature.parameters.values())
        last = bool(found) and found[-1].kind is inspect.Parameter.VAR_KEYWORD
        found.insert(len(found) - last, told)
        signature = signature.replace(parameters=found)
    layer._call_signature = signature
    layer.call_signature_parameters = list(signature.parameters)
    layer._call_has_training_arg = True
    layer._call_has_mask_arg = "mask" in names
    layer._call_has_context_arg = {**layer._call_has_context_arg, "training": True}
    layer._convert_input_args = False
    layer._allow_non_tensor_positional_args = True


def knows_training(layer: Any) -> bool:
    """Whether Keras passes `training` to the layer."""
    return bool(layer._call_has_training_arg)


def variables_that_may_train(layer: Any) -> set[int]:
    """The variables, by id, that train if the layer is trainable, even while it is frozen."""
    return {id(each) for inner in with_inner_layers(layer) for each in inner._trainable_variables}


def has_shape_function(layer: Any) -> bool:
    """Whether a layer states the shape of its outputs, so that its call need not be traced."""
    kind = type(layer)
    return (
        kind.compute_output_shape is not keras.layers.Layer.compute_output_shape
        or kind.compute_output_spec is not keras.layers.Layer.compute_output_spec
    )


def build_by_call(layer: Any, args: Any, kwargs: Any) -> None:
    """Builds a layer by a call on new symbolic tensors like the given ones."""
    fresh_args, fresh_kwargs = keras.tree.map_structure(_like, (args, kwargs))
    layer(*fresh_args, **fresh_kwargs)


def _like(value: Any) -> Any:
    if isinstance(value, keras.KerasTensor) or ops.is_tensor(value):
        return keras.KerasTensor(value.shape, keras.backend.standardize_dtype(value.dtype))
    return value


@contextlib.contextmanager
def _trainable(layers: Sequence[Any], flags: Sequence[bool]) -> Iterator[None]:
    """Layers are trainable or frozen as the flags say inside the context."""
    changed = [
        (each, flag)
        for each, flag in zip(layers, flags, strict=False)
        if each._trainable is not flag
    ]
    try:
        for each, flag in changed:
            each._trainable = flag
        yield
    finally:
        for each, flag in changed:
            each._trainable = not flag
