"""What a file computes on another processor: the operators whose last bit depends on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping

import numpy as np

from keras_qat.integer import IntegerGraph, ops, run
from keras_qat.integer.fixed_point import get_profile
from keras_qat.integer.qparams import IntArray
from tflite_export.legal.processors import PROCESSOR_OPERATORS, candidates, possible_differences
from tflite_export.proof.comparison import Samples, in_chunks
from tflite_export.proof.output_difference import OutputDifference, OutputTally
from tflite_export.proof.output_kinds import OutputKind
from tflite_export.targets import Target


@dataclasses.dataclass(frozen=True)
class OperatorDifference:
    """An operator whose result may depend on the processor.

    Attributes:
        name: the tensor that it yields.
        operator: `"MUL"`, `"MEAN"` or `"SOFTMAX"`.
        differing: how many of its elements differ on the samples.
        elements: how many elements it has there.
        possible: how many of all its inputs give another result: pairs of codes, or sums of an
            image. `None` where nobody can try them all.
        inputs: how many inputs there are; `None` where they are too many.
    """

    name: str
    operator: str
    differing: int
    elements: int
    possible: int | None
    inputs: int | None

    def render(self) -> str:
        """The difference in words."""
        said = f"{self.operator} {self.name!r}: {self.differing} of {self.elements:,} elements"
        if self.possible is None:
            return said
        what = "pairs of codes" if self.operator == "MUL" else "sums"
        what = "rows of codes" if self.operator == "SOFTMAX" else what
        return f"{said}, {self.possible:,} of all {self.inputs:,} {what}"


@dataclasses.dataclass(frozen=True)
class ProcessorDifference:
    """A file on one processor and on another, both stated by the interpreter.

    Attributes:
        profile, other: the rounding profiles of the processors.
        samples: how many examples were computed.
        operators: the operators whose result may depend on the processor.
        outputs: how far the outputs of the file are apart, end to end.
    """

    profile: str
    other: str
    samples: int
    operators: tuple[OperatorDifference, ...]
    outputs: tuple[OutputDifference, ...]

    def render(self) -> list[str]:
        """The lines of the report."""
        if not self.operators:
            return [f"As {self.other} and as {self.profile} this file computes the same."]
        parts = "; ".join(each.render() for each in self.operators)
        return [
            f"As {self.other} instead of {self.profile} the last bit may differ in {parts} "
            f"({self.samples} samples). End to end:",
            *(output.render() for output in self.outputs),
        ]


def on_other_processors(
    graph: IntegerGraph, codes: Samples, kinds: Mapping[str, OutputKind], target: Target
) -> tuple[ProcessorDifference, ...]:
    """What the samples yield on each other processor of the target.

    Args:
        graph: the graph exactly as the file states it.
        codes: int8 inputs by name.
        kinds: what each output is, by name.
        target: the target.
    """
    others = (each for each in target.processors if each != target.default_profile)
    return tuple(_difference(graph, codes, kinds, target, other) for other in others)


def _difference(
    graph: IntegerGraph,
    codes: Samples,
    kinds: Mapping[str, OutputKind],
    target: Target,
    other: str,
) -> ProcessorDifference:
    profile, count = target.default_profile, next(iter(codes.values())).shape[0]
    every = [(op, possible_differences(op, graph, target, other)) for op in candidates(graph)]
    found = {op.output: (op, *inputs) for op, inputs in every if inputs[0] != 0}
    if not found:
        return ProcessorDifference(profile, other, count, (), ())
    tallies = {name: OutputTally(graph.tensors[name], kinds[name]) for name in graph.outputs}
    differing, elements = dict.fromkeys(found, 0), dict.fromkeys(found, 0)
    for _, part in in_chunks(codes):
        values = run(graph, part, profile, keep_all=True)
        for name, (op, *_) in found.items():
            alone = _evaluate(op, graph, values, other)
            elements[name] += alone.size
            differing[name] += int(np.count_nonzero(alone != values[name]))
        elsewhere = _elsewhere(graph, values, other, found)
        for name, tally in tallies.items():
            tally.add(elsewhere[name], values[name])
    operators = tuple(
        OperatorDifference(
            name, PROCESSOR_OPERATORS[type(op)], differing[name], elements[name], *inputs
        )
        for name, (op, *inputs) in found.items()
    )
    outputs = tuple(tally.result() for tally in tallies.values())
    return ProcessorDifference(profile, other, count, operators, outputs)


def _elsewhere(
    graph: IntegerGraph, values: Mapping[str, IntArray], other: str, found: Container[str]
) -> dict[str, IntArray]:
    """The values on another processor. Ops whose inputs are the same are not computed again."""
    known = dict(values)
    changed: set[str] = set()
    for op in graph.ops:
        if op.output in found or not changed.isdisjoint(op.inputs):
            new = _evaluate(op, graph, known, other)
            if not np.array_equal(new, values[op.output]):
                known[op.output] = new
                changed.add(op.output)
    return known


def _evaluate(
    op: ops.IntegerOp, graph: IntegerGraph, values: Mapping[str, IntArray], profile: str
) -> IntArray:
    operands = [ops.QuantizedArray(values[name], graph.tensors[name].qparams) for name in op.inputs]
    return op.evaluate(operands, graph.tensors[op.output].qparams, get_profile(profile))
