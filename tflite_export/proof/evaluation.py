"""What a file changes against the model as its user evaluates it, in another arithmetic."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from keras_qat.integer import IntegerGraph
from keras_qat.integer.storage_sizes import PACKED_BITS
from tflite_export.proof.comparison import Samples, in_chunks, with_moved_integers
from tflite_export.proof.output_difference import OutputDifference, OutputTally
from tflite_export.proof.output_kinds import OutputKind
from tflite_export.targets import Target


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """In whose arithmetic a trained model infers.

    Attributes:
        exact: whether it infers as the kernels of the target, inside `inferring_as`.
        profile: the rounding profile as which the file is compared with it.
        before: the target and the storage of weights as which it infers otherwise; `None` if that
            is no other one.
    """

    exact: bool
    profile: str
    before: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class OtherEvaluation:
    """The file against the model as the user evaluates it.

    Attributes:
        target: the target as which the model infers.
        advice: how to let the model infer as the file computes.
        outputs: the difference of every output.
    """

    target: str
    advice: str
    outputs: tuple[OutputDifference, ...]

    def render(self) -> list[str]:
        """The lines of the report."""
        changed = any(each.max_steps for each in self.outputs)
        advice = f" {self.advice} evaluates what this file computes." if changed else ""
        head = f"Against the model as it evaluates now, as {self.target!r}:{advice}"
        return [head, *(output.render() for output in self.outputs)]


@contextlib.contextmanager
def inferring_as(model: Any, target: Target, weight_storage: str) -> Iterator[Arithmetic]:
    """A trained model infers as a target inside the context, if it can (`computing_as`).

    A model that infers as one processor of the target goes on doing so.
    """
    computing_as = getattr(model, "computing_as", None)
    if computing_as is None:
        yield Arithmetic(False, target.default_profile)
        return
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(computing_as(target.family, weight_storage))
        profile, name = target.default_profile, target.family
        if before[0] in target.processors:
            profile = name = before[0]
            stack.enter_context(computing_as(profile, weight_storage))
        same = (name, _fewer(weight_storage))
        yield Arithmetic(target.rounds_twice, profile, None if before == same else before)


def _fewer(weight_storage: str) -> str:
    """The storage as models know it: one rounds otherwise."""
    return weight_storage if weight_storage in PACKED_BITS else "auto"


def other_evaluation(
    graph: IntegerGraph,
    model: Any,
    samples: Samples,
    kinds: Mapping[str, OutputKind],
    of_file: Mapping[str, Any],
    before: tuple[str, str],
    target: Target,
    weight_storage: str,
) -> tuple[OtherEvaluation, dict[str, Any]]:
    """Compares the file with the model as it infers outside `inferring_as`.

    Args:
        graph: the legalized graph.
        model: the trained model.
        samples: real inputs by name.
        kinds: what each output is, by name.
        of_file: the integers of the file's outputs, by name.
        before: see `Arithmetic`.
        target, weight_storage: the target and the storage of weights of the file.

    Returns:
        The differences, and the integers of the model's outputs by name, in chunks.
    """
    tallies = {name: OutputTally(graph.tensors[name], kinds[name]) for name in graph.outputs}
    found: dict[str, list[Any]] = {name: [] for name in graph.outputs}
    with model.computing_as(*before):
        for start, part in in_chunks(samples):
            stated = model.layer_codes(part if len(part) > 1 else next(iter(part.values())))
            codes = with_moved_integers(graph, stated)
            for name, tally in tallies.items():
                stop = start + len(codes[name])
                tally.add(of_file[name][start:stop], codes[name])
                found[name].append(codes[name])
    storage = f", {weight_storage!r}" if weight_storage in PACKED_BITS else ""
    advice = f"compute_as({target.family!r}{storage})"
    outputs = tuple(tally.result() for tally in tallies.values())
    return OtherEvaluation(before[0], advice, outputs), found
