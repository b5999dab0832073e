"""Checks for NaN and infinity in inputs and weights.

No integer stands for them, and a grid hides them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.keras_graph import consumers, flat_inputs, input_keys, nodes
from keras_qat.keras_masks import with_mask_of
from keras_qat.quantizers import Quantizer
from keras_qat.quantizers.initial_scale import LARGEST_VALUE
from keras_qat.tensors import Tensor


class NanKeeper:
    """Makes the outputs of a quantized model NaN for every example whose inputs hold NaN.

    The float model answers NaN too. Without this class, the grids would turn NaN into numbers. Only
    inputs that a quantizer reads count, and only for outputs that depend on them. Layers in float
    handle NaN themselves.

    Args:
        model: the quantized model.
    """

    def __init__(self, model: keras.Model):
        readers = consumers(model)
        self.on_grids = [
            any(
                node and isinstance(node.operation, Quantizer) for node in readers.get(id(each), [])
            )
            for each in model.inputs
        ]
        reached = {id(tensor): {index} for index, tensor in enumerate(model.inputs)}
        for node in nodes(model):
            found = set().union(*(reached.get(id(tensor), set()) for tensor in node.inputs))
            reached.update({id(tensor): found for tensor in node.outputs})
        self._reached = [
            [index for index in sorted(reached[id(tensor)]) if self.on_grids[index]]
            for tensor in model.outputs
        ]

    def __call__(self, inputs: Sequence[Tensor], outputs: Any) -> Any:
        """The outputs, with NaN for every example whose inputs hold NaN.

        Args:
            inputs: tensors of shape (examples, ...), in the order of the model's inputs.
            outputs: float tensors in the structure of the model's outputs.
        """
        broken = [_examples_with_nan(each) if _is_float(each) else None for each in inputs]
        kept = [
            self._marked(output, [broken[index] for index in reached])
            for output, reached in zip(keras.tree.flatten(outputs), self._reached, strict=True)
        ]
        return keras.tree.pack_sequence_as(outputs, kept)

    def _marked(self, output: Tensor, broken: list[Tensor | None]) -> Tensor:
        found = [flags for flags in broken if flags is not None]
        if not found:
            return output
        flags = found[0]
        for more in found[1:]:
            flags = ops.logical_or(flags, more)
        flags = ops.reshape(flags, (-1, *(1,) * (len(output.shape) - 1)))
        return with_mask_of(output, ops.where(flags, ops.cast(np.nan, output.dtype), output))


def check_predicted(
    model: keras.Model, keeper: NanKeeper, x: Any, outputs: Any, steps: int | None = None
) -> None:
    """Raises ValueError if outputs are NaN because inputs are; the message counts the examples.

    Args:
        model: the quantized model.
        keeper: the keeper of the model.
        x: the inputs of the prediction.
        outputs: the outputs of the prediction.
        steps: the number of batches that were read; `None` for all.
    """
    flat = keras.tree.flatten(outputs)
    if not any(np.isnan(output).any() for output in flat):
        return
    counts, examples = dict.fromkeys(input_keys(model), 0), 0
    for batch in _batches(x, steps):
        arrays = [np.asarray(each) for each in flat_inputs(model, batch)]
        examples += max(map(len, arrays))
        for name, array in zip(counts, arrays, strict=True):
            counts[name] += _count_with_nan(array)
    _raise_for(model, keeper, counts, examples)


def check_inputs(model: keras.Model, keeper: NanKeeper, x: Any) -> None:
    """Raises ValueError if arrays of inputs hold NaN; the message counts the examples."""
    if not _holds_arrays(x):
        return
    arrays = [np.asarray(each) for each in flat_inputs(model, x)]
    counts = dict(zip(input_keys(model), map(_count_with_nan, arrays), strict=True))
    _raise_for(model, keeper, counts, max(map(len, arrays)))


def _raise_for(
    model: keras.Model, keeper: NanKeeper, counts: dict[str, int], examples: int
) -> None:
    for (name, count), on_grid in zip(counts.items(), keeper.on_grids, strict=True):
        if count and on_grid:
            raise ValueError(
                f"Input {name!r} of the model {model.name!r} holds NaN in {count} of {examples} "
                "examples: no integer stands for NaN, and the exported network would answer with "
                "some number. Fill in or drop these examples."
            )


def non_finite_values(layer: keras.layers.Layer) -> Iterator[tuple[str, int, int]]:
    """The variables of a layer that hold NaN or infinity: (name, number of them, size)."""
    for variable in layer.variables:
        values = ops.convert_to_numpy(variable)
        if np.issubdtype(values.dtype, np.floating):
            count = values.size - int(np.count_nonzero(np.isfinite(values)))
            if count:
                yield variable.name, count, values.size


def too_large_values(layer: keras.layers.Layer) -> Iterator[tuple[str, float]]:
    """The variables of a layer with values whose products overflow: (name, largest value)."""
    for variable in layer.variables:
        values = ops.convert_to_numpy(variable)
        if np.issubdtype(values.dtype, np.floating):
            largest = float(np.max(np.abs(values), initial=0.0))
            if largest > LARGEST_VALUE:
                yield variable.name, largest


def _is_float(tensor: Tensor) -> bool:
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype)))


def _examples_with_nan(tensor: Tensor) -> Tensor:
    """Which examples hold NaN, of shape (examples,)."""
    axes = tuple(range(1, len(tensor.shape)))
    return ops.any(ops.isnan(tensor), axis=axes) if axes else ops.isnan(tensor)


def _count_with_nan(array: Any) -> int:
    if not np.issubdtype(array.dtype, np.floating) or not array.ndim:
        return 0
    return int(np.count_nonzero(np.isnan(array).any(axis=tuple(range(1, array.ndim)))))


def _holds_arrays(x: Any) -> bool:
    return hasattr(x, "shape") or isinstance(x, Mapping | list | tuple)


def _batches(x: Any, steps: int | None) -> Iterator[Any]:
    """Reads the inputs again; yields nothing if they can be read only once."""
    if _holds_arrays(x):
        yield x
    elif hasattr(x, "__iter__") and iter(x) is not x:
        for batch in itertools.islice(x, steps):
            yield batch[0] if isinstance(batch, tuple) else batch
