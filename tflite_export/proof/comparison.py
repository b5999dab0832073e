"""Counts the integers that differ in each tensor, and compares a graph with its trained model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, ops, run
from keras_qat.integer.fixed_point import get_profile
from tflite_export.ops.table import export_of
from tflite_export.proof.float_difference import FloatDifference, float_difference, merge_floats
from tflite_export.proof.output_difference import OutputDifference, OutputTally
from tflite_export.proof.output_kinds import VALUES, OutputKind

_CHUNK = 128
_ONE_ROUNDING = "xnnpack"
"""The profile that rounds every result once, as a model does that does not infer as a target."""

Samples = Mapping[str, npt.NDArray[Any]]


class LearnedModel(Protocol):
    """A trained model that states its integers. It may be a Keras model; Keras is not imported."""

    def to_integer(self) -> IntegerGraph:
        """The learned network."""

    def layer_codes(self, x: Any) -> Mapping[str, npt.NDArray[np.int8]]:
        """The model's own integers for real inputs `x`, by the graph's tensor names.

        Inputs and outputs on no grid are the numbers themselves.
        """


Seen = Callable[[Mapping[str, npt.NDArray[Any]], Mapping[str, npt.NDArray[Any]]], None]
"""What takes the integers of a model and of its exported graph, chunk by chunk."""


@dataclasses.dataclass(frozen=True)
class TensorDifference:
    """How two versions of one tensor differ.

    Attributes:
        name: the tensor.
        differing: elements that differ.
        elements: elements compared.
        max_difference: largest absolute difference, in steps of the tensor's grid.
    """

    name: str
    differing: int
    elements: int
    max_difference: float

    @property
    def rate(self) -> float:
        """Differing elements over all elements."""
        return self.differing / max(self.elements, 1)


@dataclasses.dataclass(frozen=True)
class ChannelDifference:
    """The channel that is farthest from the trained model where each layer runs alone.

    Attributes:
        name: the tensor.
        channel: the index along the last axis.
        mean_steps: mean absolute difference, in steps of the tensor's grid.
        max_steps: largest absolute difference, in steps.
        elements: elements compared.
    """

    name: str
    channel: int
    mean_steps: float
    max_steps: float
    elements: int


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """The exported network against the trained model, end to end on the same inputs.

    Attributes:
        profile: rounding profile of the exported network.
        samples: how many examples were compared.
        tensors: the difference of every layer, in the order of the graph.
        outputs: the difference of every output, judged by what it is.
        float_outputs: the difference in size of every output that is on no grid.
        exact_flip_rate: share of layer elements that differ where each layer runs alone, on the
            model's own integers, with the model's rounding.
        worst_channel: the channel that differs most there; `None` without layers on grids.
        worst_alone: the layer with the most flips there; empty without layers on grids.
    """

    profile: str
    samples: int
    tensors: tuple[TensorDifference, ...]
    outputs: tuple[OutputDifference, ...] = ()
    float_outputs: tuple[FloatDifference, ...] = ()
    exact_flip_rate: float = 0.0
    worst_channel: ChannelDifference | None = None
    worst_alone: str = ""

    @property
    def argmax_agreement(self) -> float | None:
        """The lowest share of answers that any output keeps; `None` if all outputs are values."""
        shares = [each.agreement for each in self.outputs if each.agreement is not None]
        return min(shares, default=None)

    @property
    def output_errors(self) -> tuple[OutputDifference, ...]:
        """The outputs on grids that are values, judged by their steps."""
        return tuple(each for each in self.outputs if each.kind == VALUES and each.levels)

    @property
    def flip_rate(self) -> float:
        """Differing elements over all layer elements."""
        return _rate(self.tensors)

    @property
    def max_difference(self) -> float:
        """Largest difference of any element, in steps of its grid."""
        return max((tensor.max_difference for tensor in self.tensors), default=0)


def compare_with_model(
    graph: IntegerGraph,
    model: LearnedModel,
    samples: Samples,
    profile: str,
    kinds: Mapping[str, OutputKind],
    seen: Seen | None = None,
    alone: str = _ONE_ROUNDING,
) -> ModelComparison:
    """Runs both on the same examples, and compares their integers layer by layer.

    Each output is judged by what it is (`tflite_export.proof.output_kinds`). Flips of one layer are
    inputs of the next, and a target that rounds twice flips more. So each layer also runs alone, on
    the model's own integers and with the model's rounding, where only ties may differ.

    Args:
        graph: the legalized graph.
        model: the trained model.
        samples: real inputs by name, shape (samples, ...).
        profile: rounding profile with which the graph runs.
        kinds: what each output is, by name.
        seen: gets the integers of the model and of the graph, chunk by chunk.
        alone: the rounding profile of the model.

    Raises:
        ValueError: the model's `layer_codes` lacks an input or an output of the graph.
    """
    count = next(iter(samples.values())).shape[0]
    outputs = [OutputTally(graph.tensors[name], kinds[name]) for name in graph.outputs]
    in_float = [name for name in graph.outputs if graph.tensors[name].dtype == "float32"]
    chunks, exact, floats = [], [], []
    channels: dict[str, _ByChannel] = {}
    for _, part in in_chunks(samples):
        stated = model.layer_codes(part if len(part) > 1 else next(iter(part.values())))
        codes = with_moved_integers(graph, stated)
        inputs = {name: codes[name] for name in graph.inputs}
        exported = run(graph, inputs, profile, keep_all=True)
        own = {name: codes[name] for name in graph.tensors if name in codes}
        by_layer = run(graph, inputs, alone, keep_all=True, given=own)
        layers = [op.output for op in graph.ops if op.output in stated]
        layers = [name for name in layers if graph.tensors[name].dtype != "float32"]
        chunks.append([tensor_difference(name, exported[name], codes[name]) for name in layers])
        exact.append([tensor_difference(name, by_layer[name], codes[name]) for name in layers])
        for name in layers:
            total, most = _by_channel(by_layer[name], codes[name])
            before = channels.get(name, (0.0 * total, 0.0 * most))
            channels[name] = before[0] + total, np.maximum(before[1], most)
        floats.append([float_difference(name, exported[name], codes[name]) for name in in_float])
        for name, tally in zip(graph.outputs, outputs, strict=True):
            tally.add(exported[name], codes[name])
        if seen is not None:
            seen(codes, exported)
    of_layers = merge(exact)
    return ModelComparison(
        profile,
        count,
        merge(chunks),
        tuple(tally.result() for tally in outputs),
        merge_floats(floats),
        _rate(of_layers),
        _worst_channel(channels, of_layers),
        max(of_layers, key=lambda each: each.rate, default=_NOTHING).name,
    )


def in_chunks(samples: Samples) -> Iterator[tuple[int, Samples]]:
    """The samples in parts, each with the index of its first example."""
    for start in range(0, next(iter(samples.values())).shape[0], _CHUNK):
        yield start, {name: array[start : start + _CHUNK] for name, array in samples.items()}


_NOTHING = TensorDifference("", 0, 0, 0.0)


def _rate(tensors: Iterable[TensorDifference]) -> float:
    found = list(tensors)
    elements = sum(tensor.elements for tensor in found)
    return sum(tensor.differing for tensor in found) / max(elements, 1)


_ByChannel = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _by_channel(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> _ByChannel:
    """The sum and the largest of the absolute differences of every channel, in steps."""
    if actual.shape != expected.shape:
        return (np.full(expected.shape[-1], np.inf),) * 2
    apart = np.abs(actual.astype(np.float64) - expected)
    apart = apart.reshape(-1, apart.shape[-1])
    return apart.sum(axis=0), apart.max(axis=0, initial=0.0)


def _worst_channel(
    channels: Mapping[str, _ByChannel], tensors: Iterable[TensorDifference]
) -> ChannelDifference | None:
    """The channel with the largest difference, and of these the one with the largest mean."""
    found = []
    for tensor in tensors:
        totals, most = channels[tensor.name]
        elements = tensor.elements // totals.size
        worst = int(np.lexsort((totals, most))[-1])
        mean = float(totals[worst]) / max(elements, 1)
        found.append(ChannelDifference(tensor.name, worst, mean, float(most[worst]), elements))
    return max(found, key=lambda each: (each.max_steps, each.mean_steps), default=None)


def with_moved_integers(
    graph: IntegerGraph, stated: Mapping[str, npt.NDArray[np.int8]]
) -> dict[str, npt.NDArray[Any]]:
    """The model's integers, and the integers that ops without rounding compute from them.

    The input of a RESHAPE holds the codes of its output, and other ops may read it too.
    """
    codes = {name: _as_in_graph(graph, name, np.asarray(each)) for name, each in stated.items()}
    for op in reversed(graph.ops):
        if isinstance(op, ops.Reshape) and op.output in codes:
            codes.setdefault(op.inputs[0], _as_in_graph(graph, op.inputs[0], codes[op.output]))
    for op in graph.ops:
        known = all(name in codes for name in op.inputs)
        if op.output not in codes and known and export_of(op).moves_codes:
            tensors = [ops.QuantizedArray(codes[n], graph.tensors[n].qparams) for n in op.inputs]
            grid = graph.tensors[op.output].qparams
            codes[op.output] = op.evaluate(tensors, grid, get_profile("tflm"))
    missing = sorted({*graph.inputs, *graph.outputs} - set(codes))
    if missing:
        raise ValueError(
            "The model's layer_codes must hold the graph's inputs and outputs. "
            f"Received: no codes for {missing}"
        )
    return codes


def _as_in_graph(graph: IntegerGraph, name: str, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The codes in the graph's shape. A sequence of the model is an image of one row there."""
    if name not in graph.tensors:
        return codes
    shape = graph.tensors[name].shape[1:]
    same_size = math.prod(shape) == math.prod(codes.shape[1:])
    return codes.reshape(codes.shape[0], *shape) if same_size else codes


def tensor_difference(
    name: str, actual: npt.NDArray[Any], expected: npt.NDArray[Any]
) -> TensorDifference:
    """Counts differing elements. If shape or dtype differ, all elements do."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return TensorDifference(name, expected.size, expected.size, math.inf)
    difference = np.abs(actual.astype(np.float64) - expected)
    worst = float(difference.max(initial=0.0))
    return TensorDifference(name, int(np.count_nonzero(difference)), expected.size, worst)


def merge(chunks: Sequence[Iterable[TensorDifference]]) -> tuple[TensorDifference, ...]:
    """One entry per tensor over all chunks of examples."""
    return tuple(
        TensorDifference(
            parts[0].name,
            sum(part.differing for part in parts),
            sum(part.elements for part in parts),
            max(part.max_difference for part in parts),
        )
        for parts in zip(*chunks, strict=True)
    )
