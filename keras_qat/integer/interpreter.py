"""Runs an `IntegerGraph` in NumPy, with the rounding of a chosen runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from keras_qat.integer.fixed_point import RoundingProfile, get_profile
from keras_qat.integer.graph import IntegerGraph
from keras_qat.integer.ops import QuantizedArray
from keras_qat.integer.qparams import IntArray

Values = dict[str, IntArray]


def run(
    graph: IntegerGraph,
    inputs: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    profile: str | RoundingProfile = "tflm",
    keep_all: bool = False,
    batch_size: int = 64,
    given: Mapping[str, IntArray] | None = None,
) -> Values:
    """Evaluates the graph on int8 inputs, batch by batch.

    Args:
        graph: the network.
        inputs: int8 integers, of any batch size: a dict by input name, a list in the order of the
            inputs, or one array for a single input.
        profile: the rounding to follow, or its name in `PROFILES`, such as `"tflm"`.
        keep_all: whether to return every tensor, instead of the outputs only.
        batch_size: how many examples are held in memory at once.
        given: values by tensor name, which ops read instead of the computed ones.

    Returns:
        int8 arrays by tensor name; float32 for a tensor that is on no grid.

    Raises:
        ValueError: inputs that are missing, unknown, of a wrong shape or not int8; or an unknown
            profile.
    """
    rounding = get_profile(profile)
    arrays = check_inputs(graph, inputs)
    given = given or {}
    examples = next(iter(arrays.values())).shape[0]
    parts = [
        _run_batch(
            graph,
            _examples(arrays, start, batch_size),
            rounding,
            keep_all,
            _examples(given, start, batch_size),
        )
        for start in range(0, max(examples, 1), batch_size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _examples(arrays: Mapping[str, IntArray], start: int, count: int) -> Values:
    return {name: array[start : start + count] for name, array in arrays.items()}


def _run_batch(
    graph: IntegerGraph,
    inputs: Values,
    profile: RoundingProfile,
    keep_all: bool,
    given: Values,
) -> Values:
    values = dict(inputs)
    last_use = {name: index for index, op in enumerate(graph.ops) for name in op.inputs}
    for index, op in enumerate(graph.ops):
        read = {name: given.get(name, values[name]) for name in op.inputs}
        operands = [QuantizedArray(read[name], graph.tensors[name].qparams) for name in op.inputs]
        try:
            values[op.output] = op.evaluate(operands, graph.tensors[op.output].qparams, profile)
        except OverflowError as error:
            raise OverflowError(f"Op {op.output!r}: {error}") from error
        if not keep_all:
            for name in set(op.inputs):
                if last_use[name] == index and name not in graph.outputs:
                    del values[name]
    return values if keep_all else {name: values[name] for name in graph.outputs}


def named_inputs(
    inputs: npt.ArrayLike | Mapping[str, npt.ArrayLike], names: Sequence[str], owner: str
) -> Mapping[str, npt.ArrayLike]:
    """The inputs by name.

    A single input may be one array. Several are a dict, or a list in the order of `names`.

    Raises:
        ValueError: other names, or another number of inputs. The message calls the graph or model
            `owner`.

    >>> named_inputs([1.0, 2.0], ("left", "right"), "graph")
    {'left': 1.0, 'right': 2.0}
    """
    names = list(names)
    if not isinstance(inputs, Mapping):
        if len(names) == 1:
            return {names[0]: inputs}
        if not isinstance(inputs, list | tuple) or len(inputs) != len(names):
            raise ValueError(
                f"The {owner} has several inputs: pass a list in the order {names}, or a dict with "
                f"these keys. Received: {type(inputs).__name__}"
            )
        return dict(zip(names, inputs, strict=True))
    if set(inputs) != set(names):
        raise ValueError(f"The {owner}'s inputs are {names}. Received: {sorted(inputs)}")
    return inputs


def check_inputs(
    graph: IntegerGraph, inputs: npt.ArrayLike | Mapping[str, npt.ArrayLike]
) -> Values:
    """The inputs as arrays by name: int8, except inputs on no grid.

    Raises:
        ValueError: names, shapes, batch sizes or a dtype that do not fit the graph.
    """
    inputs = named_inputs(inputs, graph.inputs, "graph")
    arrays = {name: np.asarray(inputs[name]) for name in graph.inputs}
    for name, array in arrays.items():
        dtype, expected = graph.tensors[name].dtype, graph.tensors[name].shape[1:]
        if array.dtype != dtype or array.shape[1:] != expected:
            raise ValueError(
                f"Input {name!r} must be {dtype} of shape (batch, {', '.join(map(str, expected))})."
                f" Received: {array.dtype} of shape {array.shape}"
            )
    if len({array.shape[0] for array in arrays.values()}) > 1:
        sizes = {name: array.shape[0] for name, array in arrays.items()}
        raise ValueError(f"All inputs need one batch size. Received: {sizes}")
    return arrays
