"""Counts the integers that differ in each tensor, and compares a graph with its trained model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, ops, run
from keras_qat.integer.fixed_point import get_profile
from tflite_export.ops.table import export_of
from tflite_export.proof.float_difference import FloatDifference, float_difference, merge_floats

_CHUNK = 128

Samples = Mapping[str, npt.NDArray[Any]]


class LearnedModel(Protocol):
    """A trained model that states its integers. It may be a Keras model; Keras is not imported."""

    def to_integer(self) -> IntegerGraph:
        """The learned network."""

    def layer_codes(self, x: Any) -> Mapping[str, npt.NDArray[np.int8]]:
        """The model's own integers for real inputs `x`, by the graph's tensor names.

        Inputs and outputs on no grid are the numbers themselves.
        """


@dataclasses.dataclass(frozen=True)
class TensorDifference:
    """How two versions of one tensor differ.

    Attributes:
        name: the tensor.
        differing: elements that differ.
        elements: elements compared.
        max_difference: largest absolute difference, in steps of the tensor's grid.
        total: sum of all absolute differences, in steps.
    """

    name: str
    differing: int
    elements: int
    max_difference: float
    total: float = 0.0

    @property
    def rate(self) -> float:
        """Differing elements over all elements."""
        return self.differing / max(self.elements, 1)


@dataclasses.dataclass(frozen=True)
class OutputError:
    """How far an output of one channel is from the trained model's output.

    Such an output has no largest channel to compare. It is a number, or its sign is the answer.

    Attributes:
        name: the output.
        mean_steps: mean absolute difference, in steps of the output's grid.
        max_steps: largest absolute difference, in steps.
        levels: number of levels of the grid.
    """

    name: str
    mean_steps: float
    max_steps: float
    levels: int

    @property
    def share_of_range(self) -> float:
        """The mean difference over the number of levels."""
        return self.mean_steps / self.levels


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """The exported network against the trained model, end to end on the same inputs.

    Attributes:
        profile: rounding profile of the exported network.
        samples: how many examples were compared.
        tensors: the difference of every layer, in the order of the graph.
        argmax_agreement: share of examples whose largest channel is the same, or whose indices are
            the same for an output of ARG_MAX. With several outputs it is the lowest share. `None`
            if all outputs have one channel.
        output_errors: the error of every output of one channel that is on a grid.
        float_outputs: the difference of every output that is on no grid.
    """

    profile: str
    samples: int
    tensors: tuple[TensorDifference, ...]
    argmax_agreement: float | None
    output_errors: tuple[OutputError, ...] = ()
    float_outputs: tuple[FloatDifference, ...] = ()

    @property
    def flip_rate(self) -> float:
        """Differing elements over all layer elements."""
        elements = sum(tensor.elements for tensor in self.tensors)
        return sum(tensor.differing for tensor in self.tensors) / max(elements, 1)

    @property
    def max_difference(self) -> float:
        """Largest difference of any element, in steps of its grid."""
        return max((tensor.max_difference for tensor in self.tensors), default=0)


def compare_with_model(
    graph: IntegerGraph, model: LearnedModel, samples: Samples, profile: str
) -> ModelComparison:
    """Runs both on the same examples, and compares their integers layer by layer.

    It counts the elements that differ. For outputs, it also finds the argmax agreement, or the
    error of an output of one channel. An output on no grid has a difference in size.

    Args:
        graph: the legalized graph.
        model: the trained model.
        samples: real inputs by name, shape (samples, ...).
        profile: rounding profile with which the graph runs.

    Raises:
        ValueError: the model's `layer_codes` lacks an input or an output of the graph.
    """
    count = next(iter(samples.values())).shape[0]
    one_channel = [name for name in graph.outputs if graph.tensors[name].shape[-1] == 1]
    single = [name for name in one_channel if graph.tensors[name].on_grid]
    in_float = [name for name in graph.outputs if graph.tensors[name].dtype == "float32"]
    indices = {name for name in graph.outputs if graph.tensors[name].dtype == "int32"}
    answers = [name for name in graph.outputs if name in indices or name not in one_channel]
    chunks, agreeing = [], dict.fromkeys(answers, 0)
    floats: list[list[FloatDifference]] = []
    outputs: list[list[TensorDifference]] = []
    for start in range(0, count, _CHUNK):
        part = {name: array[start : start + _CHUNK] for name, array in samples.items()}
        stated = model.layer_codes(part if len(part) > 1 else next(iter(part.values())))
        codes = _with_moved_integers(graph, stated)
        exported = run(graph, {n: codes[n] for n in graph.inputs}, profile, keep_all=True)
        layers = [op.output for op in graph.ops if op.output in stated]
        layers = [name for name in layers if graph.tensors[name].dtype != "float32"]
        chunks.append([tensor_difference(name, exported[name], codes[name]) for name in layers])
        outputs.append([tensor_difference(name, exported[name], codes[name]) for name in single])
        floats.append([float_difference(name, exported[name], codes[name]) for name in in_float])
        for name in agreeing:
            found, wanted = (
                each if name in indices else each.argmax(axis=-1)
                for each in (exported[name], codes[name])
            )
            same = found == wanted
            agreeing[name] += int(np.count_nonzero(same.reshape(same.shape[0], -1).all(axis=1)))
    agreement = min(agreeing.values()) / max(count, 1) if agreeing else None
    errors = tuple(_output_error(found, graph) for found in merge(outputs))
    return ModelComparison(profile, count, merge(chunks), agreement, errors, merge_floats(floats))


def _output_error(found: TensorDifference, graph: IntegerGraph) -> OutputError:
    mean = found.total / max(found.elements, 1)
    levels = graph.tensors[found.name].qparams.levels
    return OutputError(found.name, mean, found.max_difference, levels)


def _with_moved_integers(
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
        return TensorDifference(name, expected.size, expected.size, math.inf, math.inf)
    difference = np.abs(actual.astype(np.float64) - expected)
    worst = float(difference.max(initial=0.0))
    differing, total = int(np.count_nonzero(difference)), float(difference.sum())
    return TensorDifference(name, differing, expected.size, worst, total)


def merge(chunks: Sequence[Iterable[TensorDifference]]) -> tuple[TensorDifference, ...]:
    """One entry per tensor over all chunks of examples."""
    return tuple(
        TensorDifference(
            parts[0].name,
            sum(part.differing for part in parts),
            sum(part.elements for part in parts),
            max(part.max_difference for part in parts),
            sum(part.total for part in parts),
        )
        for parts in zip(*chunks, strict=True)
    )
