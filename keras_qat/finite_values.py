"""NaN and infinity, in inputs and in weights: no integer stands for them, and a grid hides them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.keras_graph import flat_inputs, input_keys, with_mask_of

Tensor = Any


def nan_kept(inputs: Any, outputs: Any) -> Any:
    """The outputs, and NaN in all of them for every example whose inputs hold NaN.

    So a quantized model answers as its float model does. Its grids alone would turn NaN into
    numbers.

    Args:
        inputs: float or integer tensors, of shape (examples, ...).
        outputs: float tensors, of shape (examples, ...).
    """
    floats = [each for each in keras.tree.flatten(inputs) if _is_float(each)]
    if not floats:
        return outputs
    broken = ops.any(ops.stack([_examples_with_nan(each) for each in floats]), axis=0)

    def kept(output: Tensor) -> Tensor:
        flags = ops.reshape(broken, (-1, *(1,) * (len(output.shape) - 1)))
        marked = ops.where(flags, ops.cast(np.nan, output.dtype), output)
        return with_mask_of(output, marked)

    return keras.tree.map_structure(kept, outputs)


def check_predicted(model: keras.Model, x: Any, outputs: Any) -> None:
    """Raises ValueError if outputs are NaN because inputs are; the message counts them."""
    flat = keras.tree.flatten(outputs)
    if not any(np.isnan(output).any() for output in flat):
        return
    counts, examples = dict.fromkeys(input_keys(model), 0), 0
    for batch in _batches(x):
        arrays = [np.asarray(each) for each in flat_inputs(model, batch)]
        examples += len(arrays[0])
        for name, array in zip(counts, arrays, strict=True):
            counts[name] += _count_with_nan(array)
    _raise_for(model, counts, examples)


def check_inputs(model: keras.Model, x: Any) -> None:
    """Raises ValueError if arrays of inputs hold NaN; the message counts the examples."""
    if not _holds_arrays(x):
        return
    arrays = [np.asarray(each) for each in flat_inputs(model, x)]
    counts = dict(zip(input_keys(model), map(_count_with_nan, arrays), strict=True))
    _raise_for(model, counts, len(arrays[0]))


def _raise_for(model: keras.Model, counts: dict[str, int], examples: int) -> None:
    for name, count in counts.items():
        if count:
            raise ValueError(
                f"Input {name!r} of the model {model.name!r} holds NaN in {count} of {examples} "
                "examples: no integer stands for NaN, and the exported network would answer with "
                "some number. Fill in or drop these examples."
            )


def non_finite_values(layer: keras.layers.Layer) -> Iterator[tuple[str, int, int]]:
    """The variables of a layer that hold NaN or infinity: name, how many values, of how many."""
    for variable in layer.variables:
        values = ops.convert_to_numpy(variable)
        if np.issubdtype(values.dtype, np.floating):
            count = values.size - int(np.count_nonzero(np.isfinite(values)))
            if count:
                yield variable.name, count, values.size


def _is_float(tensor: Tensor) -> bool:
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))


def _examples_with_nan(tensor: Tensor) -> Tensor:
    """Which examples hold NaN: (examples,)."""
    axes = tuple(range(1, len(tensor.shape)))
    return ops.any(ops.isnan(tensor), axis=axes) if axes else ops.isnan(tensor)


def _count_with_nan(array: Any) -> int:
    if not np.issubdtype(array.dtype, np.floating) or not array.ndim:
        return 0
    return int(np.count_nonzero(np.isnan(array).any(axis=tuple(range(1, array.ndim)))))


def _holds_arrays(x: Any) -> bool:
    return hasattr(x, "shape") or isinstance(x, Mapping | list | tuple)


def _batches(x: Any) -> Iterator[Any]:
    """The inputs once more; nothing if they could be read only once."""
    if _holds_arrays(x):
        yield x
    elif hasattr(x, "__iter__") and iter(x) is not x:
        for batch in x:
            yield batch[0] if isinstance(batch, tuple) else batch
