"""Finds values of unlike ranges that share a grid of an exported network, for the report."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, IntegerTensor, ops, run
from keras_qat.integer.shared_ranges import FEW, FEW_OF_OUTPUTS, SharedRange
from tflite_export.ops.table import export_of

Array = npt.NDArray[Any]

_MOST_RUN = 32
"""Largest number of samples that are run once more to see the ranges of outputs."""


def range_warnings(
    graph: IntegerGraph, samples: Mapping[str, Array], known: Sequence[str] = ()
) -> list[str]:
    """Warnings about inputs, outputs and joined tensors that lose levels on a shared grid.

    Args:
        graph: the learned graph.
        samples: real inputs by name, shape (samples, ...).
        known: warnings from the time when the model was quantized. They come first.
    """
    codes = {name: graph.tensors[name].quantize(each[:_MOST_RUN]) for name, each in samples.items()}
    values = run(graph, codes, "xnnpack", keep_all=True)
    found = [*_inputs(graph, samples), *_outputs(graph, values), *_joined(graph, values)]
    named = [shared for shared in found if not any(each.startswith(shared.what) for each in known)]
    return [*known, *(warning for shared in named if (warning := shared.warning()))]


def _inputs(graph: IntegerGraph, samples: Mapping[str, Array]) -> Iterator[SharedRange]:
    for name, array in samples.items():
        tensor = graph.tensors[name]
        gains = _gains(graph, name)
        columns = array.shape[-1] if array.ndim > 1 else 0
        if tensor.on_grid and gains is not None and gains.size == columns:
            yield _of_columns(f"Input {name!r}", tensor, array, array, gains)


def _outputs(graph: IntegerGraph, values: Mapping[str, Array]) -> Iterator[SharedRange]:
    softmax = {op.output for op in graph.ops if isinstance(op, ops.Softmax)}
    for name in graph.outputs:
        tensor = graph.tensors[name]
        if name not in softmax and tensor.on_grid and len(tensor.shape) > 1:
            least, most = _before_rounding(tensor, values[name])
            yield _of_columns(f"Output {name!r}", tensor, least, most, None)


def _joined(graph: IntegerGraph, values: Mapping[str, Array]) -> Iterator[SharedRange]:
    for op in graph.ops:
        if not isinstance(op, ops.Concatenate):
            continue
        parts = [_before_rounding(graph.tensors[name], values[name]) for name in op.inputs]
        columns = [least.shape[-1] for least, _ in parts]
        gains = _gains(graph, op.output)
        if gains is None and op.output not in graph.outputs:
            continue
        yield SharedRange(
            f"What {op.output!r} joins",
            "tensor",
            [repr(name) for name in op.inputs],
            np.array([np.min(least) for least, _ in parts], np.float64),
            np.array([np.max(most) for _, most in parts], np.float64),
            None if gains is None else _largest_gains(gains, columns),
            _bits(graph.tensors[op.output]),
            float(graph.tensors[op.output].qparams.scale),
            FEW_OF_OUTPUTS if gains is None else FEW,
        )


def _largest_gains(gains: Array, columns: list[int]) -> Array | None:
    """The largest gain of each joined tensor; `None` if they are not joined along the columns."""
    if sum(columns) != gains.size:
        return None
    ends = np.cumsum([0, *columns])
    return np.array([gains[start:end].max() for start, end in itertools.pairwise(ends)])


def _before_rounding(tensor: IntegerTensor, codes: Array) -> tuple[Array, Array]:
    """The lowest and highest real values that the codes may stand for, half a step around them."""
    values, half = tensor.dequantize(codes), 0.5 * float(tensor.qparams.scale)
    return values - half, values + half


def _of_columns(
    what: str, tensor: IntegerTensor, least: Array, most: Array, gains: Array | None
) -> SharedRange:
    columns = least.shape[-1]
    names = [str(index) for index in range(columns)]
    low = least.reshape(-1, columns).astype(np.float64).min(axis=0)
    high = most.reshape(-1, columns).astype(np.float64).max(axis=0)
    scale = float(tensor.qparams.scale)
    few = FEW_OF_OUTPUTS if gains is None else FEW
    return SharedRange(what, "column", names, low, high, gains, _bits(tensor), scale, few)


def _bits(tensor: IntegerTensor) -> int:
    return (tensor.qparams.levels - 1).bit_length()


def _gains(graph: IntegerGraph, name: str) -> Array | None:
    """For each column (last axis) of a tensor, the norm of the weights that multiply it.

    If several ops read the tensor, the largest of their norms counts. Ops whose norms are not known
    do not count.

    Returns:
        One number for each column, or `None` if no op has known norms, or if their numbers of
        columns differ.
    """
    readers = collections.defaultdict(list)
    for op in graph.ops:
        for each in op.inputs:
            readers[each].append(op)
    behind = [name]  # it, and its reshaped forms with the same columns
    for each in behind:
        behind += [op.output for op in readers[each] if _keeps_columns(op, graph)]
    known: dict[str, Array | None] = {}
    for each in reversed(behind):
        found = [_gains_in(op, graph, known) for op in readers[each]]
        of_ops = [gains for gains in found if gains is not None]
        agree = len({gains.size for gains in of_ops}) == 1
        known[each] = np.max(of_ops, axis=0) if agree else None
    return known[name]


def _keeps_columns(op: ops.IntegerOp, graph: IntegerGraph) -> bool:
    columns = graph.tensors[op.inputs[0]].shape[-1]
    return isinstance(op, ops.Reshape) and graph.tensors[op.output].shape[-1] == columns


def _gains_in(
    op: ops.IntegerOp, graph: IntegerGraph, known: Mapping[str, Array | None]
) -> Array | None:
    if _keeps_columns(op, graph):
        return known[op.output]
    columns = graph.tensors[op.inputs[0]].shape[-1]
    axis = export_of(op).column_axis
    if not isinstance(op, ops.LinearOp) or axis is None:
        return None
    weights = op.weight.qparams.dequantize(op.weight.values).astype(np.float64)
    taps = tuple(each for each in range(weights.ndim) if each != axis)
    gains: Array = np.sqrt(np.sum(np.square(weights), axis=taps))
    return gains if gains.size == columns else None  # in groups, columns share a gain
