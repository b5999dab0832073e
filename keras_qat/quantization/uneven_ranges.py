"""Finds grids that are too coarse for some of their columns or tensors."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.integer.shared_ranges import FEW, FEW_OF_OUTPUTS, SharedRange
from keras_qat.keras_graph import graph_between
from keras_qat.lowering.affine import inference_affine
from keras_qat.lowering.shape import lower_identity
from keras_qat.quantization.plan import PlannedGrid, PlannedTensor
from keras_qat.quantization.ruled_graph import Call, RuledGraph

layers = keras.layers

Array = Any

_MEASURED = 256
"""The number of examples on which the effect of rounding an input is measured."""
_LARGEST_NOISE = 0.01
"""The mean squared change of outputs over their variance: a tenth of their spread, 20 dB."""
_MOST_MOVED = 0.02
"""The share of outputs with another largest column."""
_KERNELS = (
    *(layers.Conv1D, layers.Conv2D, layers.DepthwiseConv1D, layers.DepthwiseConv2D, layers.Dense),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
)
_AFFINE = (layers.BatchNormalization, layers.Normalization, layers.Rescaling)
_INPUT_ADVICE = (
    " Bring the columns to like ranges before the model, for example with its Normalization in the "
    "data pipeline, or give them inputs of their own."
)
_OUTPUT_ADVICE = " Make them outputs of their own, or train on targets of like ranges."
_JOINED_ADVICE = " Bring the tensors to like ranges before they are joined, or keep them apart."
_JOINED_OUTPUT_ADVICE = (
    " Make them outputs of their own, or join them in float32 at the end of the model, for LiteRT "
    "alone: overrides={{{name!r}: keras_qat.LSQConfig(activation_bits=None)}}."
)


class ColumnRanges:
    """The least and the largest value of every column of some tensors, batch by batch.

    Args:
        tensors: the symbolic tensors to watch.
    """

    def __init__(self, tensors: Sequence[Any] = ()):
        self._watched = {id(tensor) for tensor in tensors}
        self._ranges: dict[int, tuple[Array, Array]] = {}

    def see(self, tensor: Any, values: Array) -> None:
        """Adds the values of a symbolic tensor for one batch; columns are on the last axis."""
        if id(tensor) not in self._watched:
            return
        if values.ndim < 2:
            return  # no columns
        rows = np.reshape(values, (-1, values.shape[-1])).astype(np.float64)
        low, high = rows.min(axis=0), rows.max(axis=0)
        if id(tensor) in self._ranges:
            known_low, known_high = self._ranges[id(tensor)]
            low, high = np.minimum(low, known_low), np.maximum(high, known_high)
        self._ranges[id(tensor)] = (low, high)

    def of(self, tensor: Any) -> tuple[Array, Array] | None:
        """The ranges of a tensor; `None` if it was not seen."""
        return self._ranges.get(id(tensor))


def watched_tensors(rules: RuledGraph, grids: Sequence[PlannedGrid]) -> list[Any]:
    """The symbolic tensors whose ranges `range_warnings` needs."""
    finder = _Finder(rules, grids)
    looked_at = filter(finder.looks_at, grids)
    return [rules.tensor(each.place) for grid in looked_at for each in grid.tensors]


def range_warnings(
    rules: RuledGraph,
    grids: Sequence[PlannedGrid],
    ranges: ColumnRanges,
    data: Iterable[list[Array]] = (),
) -> list[str]:
    """Messages about the losses of inputs, outputs and joined tensors on their grids.

    A message names columns of an input if rounding them to the grid changes the outputs of the
    float model: by more than a tenth of their spread, or the largest column of more than 2 % of
    them. Without data, the weights of the columns decide.

    Args:
        rules: the normalized float model.
        grids: the grids of its plan.
        ranges: the ranges of the tensors. For a tensor that was not seen, a Normalization behind it
            tells the range. Without one, there is no message.
        data: batches of inputs; only the first ones are measured.
    """
    found = _Finder(rules, grids, data).shared_ranges(ranges)
    return [shared.warning() + advice for shared, advice in found if shared.starved()]


class _Finder:
    def __init__(
        self,
        rules: RuledGraph,
        grids: Sequence[PlannedGrid],
        data: Iterable[list[Array]] = (),
    ):
        self._model = rules.model
        self._rules = rules
        self._data = data
        self._grids = grids

    def looks_at(self, grid: PlannedGrid) -> bool:
        """Whether a grid has inputs, outputs or several tensors."""
        ends = any(self._rules.is_output(self._rules.tensor(each.place)) for each in grid.tensors)
        return grid.is_input or ends or len(grid.tensors) > 1

    def shared_ranges(self, ranges: ColumnRanges) -> Iterator[tuple[SharedRange, str]]:
        for grid in filter(self.looks_at, self._grids):
            for planned in grid.tensors:
                tensor = self._rules.tensor(planned.place)
                seen = ranges.of(tensor)
                known = seen or self._expected(tensor)
                if known is not None and self._rules.is_output(tensor):
                    yield self._of_columns(planned, grid, known, few=FEW_OF_OUTPUTS)
                elif known is not None and planned.is_input and seen is None:
                    if (gains := self._gains(tensor)) is not None:
                        yield self._of_columns(planned, grid, known, gains=gains)
                elif known is not None and planned.is_input:
                    measured = self._of_columns(planned, grid, known, beside_others=False)
                    if self._changes_answers(tensor, measured[0]):
                        yield measured
            yield from self._of_tensors(grid, ranges)

    def _changes_answers(self, tensor: Any, shared: SharedRange) -> bool:
        """Whether rounding the starved columns to their grid changes the float model's outputs."""
        columns = [shared.names.index(name) for name in shared.starved()]
        if not columns:
            return False
        place = [id(each) for each in self._model.inputs].index(id(tensor))
        probe = graph_between(self._model.inputs, self._model.outputs)
        before, after, count = [], [], 0
        for batch in self._data:
            gridded = [np.array(each, np.float32) for each in batch]
            kept = gridded[place][..., columns]
            gridded[place][..., columns] = np.rint(kept / shared.step) * shared.step
            before.append(_answers(probe, batch))
            after.append(_answers(probe, gridded))
            count += len(batch[0])
            if count >= _MEASURED:
                break
        outputs = range(len(self._model.outputs))
        return any(
            _differ(*(np.concatenate([batch[index] for batch in each]) for each in (before, after)))
            for index in outputs
        )

    def _of_columns(
        self,
        planned: PlannedTensor,
        grid: PlannedGrid,
        known: tuple[Array, Array],
        gains: Array | None = None,
        **how: Any,
    ) -> tuple[SharedRange, str]:
        what = f"{'Input' if planned.is_input else 'Output'} {planned.layer!r}"
        columns = [str(index) for index in range(len(known[0]))]
        shared = SharedRange(what, "column", columns, *known, gains, grid.bits, **how)
        return shared, _INPUT_ADVICE if planned.is_input else _OUTPUT_ADVICE

    def _of_tensors(
        self, grid: PlannedGrid, ranges: ColumnRanges
    ) -> Iterator[tuple[SharedRange, str]]:
        tensors = [self._rules.tensor(each.place) for each in grid.tensors]
        pairs = zip(grid.tensors, tensors, strict=True)
        known = {planned.layer: ranges.of(tensor) for planned, tensor in pairs}
        if len(known) < 2 or None in known.values():
            return
        low = np.array([np.min(each[0]) for each in known.values() if each is not None])
        high = np.array([np.max(each[1]) for each in known.values() if each is not None])
        gains = list(map(self._gains, tensors))
        worth = None
        if all(each is not None for each in gains) and len(gains) == len(known):
            worth = np.array([np.max(each) for each in gains if each is not None])
        what = f"What {grid.joined_by!r} joins"
        names = [repr(name) for name in known]
        few = FEW if worth is not None else FEW_OF_OUTPUTS
        shared = SharedRange(what, "tensor", names, low, high, worth, grid.bits, few=few)
        joins = [call for call in self._rules.calls if call.name == grid.joined_by]
        ends = any(self._rules.is_output(call.node.outputs[0]) for call in joins)
        named = _JOINED_OUTPUT_ADVICE.format(name=grid.joined_by)
        yield shared, named if ends else _JOINED_ADVICE

    def _expected(self, tensor: Any) -> tuple[Array, Array] | None:
        """The ranges of the columns from the statistics of a Normalization that reads them."""
        for reader in self._rules.readers(tensor):
            if reader is not None and isinstance(reader.layer, layers.Normalization):
                gain, offset = self._affine(reader)
                mean, spread = -offset / gain, 3.0 / gain
                return mean - spread, mean + spread
        return None

    def _gains(self, tensor: Any) -> Array | None:
        """The factors on the columns of a tensor where they are read; `None` if unknown."""
        behind = {id(tensor): tensor}  # it, and the tensors to which its columns are passed on
        waiting = [tensor]
        while waiting:
            for reader in self._rules.readers(waiting.pop()):
                further = None if reader is None else reader.node.outputs[0]
                if reader is None or id(further) in behind or not self._passes_on(reader):
                    continue
                behind[id(further)] = further
                waiting.append(further)
        known: dict[int, Array | None] = {}
        for each in sorted(behind.values(), key=lambda made: self._order[id(made)], reverse=True):
            found = [self._gains_in(reader, each, known) for reader in self._rules.readers(each)]
            of_readers = [gains for gains in found if gains is not None]
            known[id(each)] = np.max(of_readers, axis=0) if of_readers else None
        return known[id(tensor)]

    @functools.cached_property
    def _order(self) -> dict[int, int]:
        """When each tensor is made."""
        tensors = [*self._model.inputs]
        tensors += [tensor for call in self._rules.calls for tensor in call.node.outputs]
        return {id(tensor): index for index, tensor in enumerate(tensors)}

    def _passes_on(self, reader: Call) -> bool:
        """Whether what is behind a call tells the factors on the columns before it."""
        layer, tensor = reader.layer, reader.node.inputs[0]
        if isinstance(layer, _AFFINE):
            return bool(self._affine(reader)[0].size == 1)  # all columns have one factor
        if isinstance(layer, layers.Concatenate):
            return layer.axis in (-1, len(tensor.shape) - 1)
        return not isinstance(layer, _KERNELS) and reader.rule.lower is lower_identity

    def _gains_in(
        self, reader: Call | None, tensor: Any, known: Mapping[int, Array | None]
    ) -> Array | None:
        """The factors of one call on the columns of a tensor, from the known ones behind it."""
        columns = tensor.shape[-1]
        if reader is None or columns is None:
            return None
        if isinstance(reader.layer, _KERNELS):
            return _kernel_gains(reader.layer, columns)
        if not self._passes_on(reader):
            gains = np.abs(self._affine(reader)[0]) if isinstance(reader.layer, _AFFINE) else None
            return gains if gains is not None and gains.size == columns else None
        further = known[id(reader.node.outputs[0])]
        if further is None:
            return None
        if isinstance(reader.layer, _AFFINE):
            return np.abs(self._affine(reader)[0]).item() * further
        if isinstance(reader.layer, layers.Concatenate):
            place = [id(each) for each in reader.node.inputs].index(id(tensor))
            start = sum(each.shape[-1] for each in reader.node.inputs[:place])
            return further[start : start + columns]
        return further

    def _affine(self, call: Call) -> tuple[Array, Array]:
        gain, offset = (
            np.asarray(ops.convert_to_numpy(each), np.float64).reshape(-1)
            for each in inference_affine(call.layer)
        )
        return gain, offset


def _kernel_gains(layer: Any, columns: int) -> Array | None:
    """The norm of the weights by which each input column is multiplied."""
    kernel = layer.depthwise_kernel if hasattr(layer, "depthwise_kernel") else layer.kernel
    values = np.asarray(ops.convert_to_numpy(kernel), np.float64)
    taps = tuple(axis for axis in range(values.ndim) if axis != values.ndim - 2)
    gains = np.sqrt(np.sum(np.square(values), axis=taps))
    return gains if gains.size == columns else None  # in groups, several columns share a gain


def _answers(probe: keras.Model, batch: list[Array]) -> list[Array]:
    outputs = probe(batch, training=False)
    return [ops.convert_to_numpy(each) for each in keras.tree.flatten(outputs)]


def _differ(answers: Array, others: Array) -> bool:
    """Whether outputs differ too much, in mean square or in their largest columns."""
    signal = np.mean(np.square(answers - answers.mean(axis=0)))
    noise = np.mean(np.square(answers - others)) / max(signal, np.finfo(np.float32).tiny)
    moved = answers.argmax(axis=-1) != others.argmax(axis=-1) if answers.ndim > 1 else False
    return bool(noise > _LARGEST_NOISE or np.mean(moved) > _MOST_MOVED)
