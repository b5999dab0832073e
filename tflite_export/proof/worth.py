"""What a file is worth: float model, trained model and file side by side on the samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph
from tflite_export.proof.comparison import Samples
from tflite_export.proof.output_difference import decibels
from tflite_export.proof.output_kinds import OutputKind
from tflite_export.text_table import text_table

Array = npt.NDArray[Any]
Metric = Callable[[Any, Any], float]


@dataclasses.dataclass(frozen=True)
class Worth:
    """Three versions of a network on the same samples.

    Attributes:
        metric: name of the metric; empty without labels.
        of_float: the metric of the float model; `None` if that is not known.
        of_trained: the metric of the trained model.
        of_file: the metric of the file.
        trained_sqnr: for each output, the float model's signal over the error of the trained model,
            in decibels; `None` where nothing differs. Empty if the float model is not known.
        file_sqnr: the same for the file.
    """

    metric: str = ""
    of_float: float | None = None
    of_trained: float | None = None
    of_file: float | None = None
    trained_sqnr: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    file_sqnr: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    def render(self) -> list[str]:
        """The lines of the report."""
        head = ("", "float model", "trained model", "file")
        rows: list[tuple[object, ...]] = []
        if self.metric:
            three = (self.of_float, self.of_trained, self.of_file)
            rows.append((self.metric, *("-" if each is None else f"{each:.4g}" for each in three)))
        for name, trained in self.trained_sqnr.items():
            both = (trained, self.file_sqnr[name])
            texts = ("equal" if each is None else f"{each:.1f} dB" for each in both)
            rows.append((f"SQNR of {name}", "-", *texts))
        return ["", *text_table(head, rows)] if rows else []


class Answers:
    """Collects the outputs of the trained model and of the file, chunk by chunk.

    Attributes:
        names: the outputs in their order; one may be listed twice.
        trained: the integers of the trained model, by name, in chunks.
        file: the same of the exported graph, which the file was proven to equal.
    """

    def __init__(self, graph: IntegerGraph):
        self._graph = graph
        self.names = graph.outputs
        self.trained: dict[str, list[Array]] = {name: [] for name in graph.outputs}
        self.file: dict[str, list[Array]] = {name: [] for name in graph.outputs}

    def add(self, codes: Mapping[str, Array], exported: Mapping[str, Array]) -> None:
        """Adds a chunk: the integers of the model and of the exported graph."""
        for name in dict.fromkeys(self._graph.outputs):
            self.trained[name].append(codes[name])
            self.file[name].append(exported[name])

    def of_trained(self) -> dict[str, Array]:
        """The real outputs of the trained model, by name."""
        return self._real(self.trained)

    def of_file(self) -> dict[str, Array]:
        """The real outputs of the file, by name."""
        return self._real(self.file)

    def _real(self, codes: Mapping[str, list[Array]]) -> dict[str, Array]:
        tensors = self._graph.tensors
        return {
            name: tensors[name].dequantize(np.concatenate(found)) for name, found in codes.items()
        }


def worth_of(
    answers: Answers,
    model: Any,
    samples: Samples,
    kinds: Sequence[OutputKind],
    labels: Any = None,
    metric: Metric | None = None,
) -> Worth:
    """The three versions on the samples.

    Args:
        answers: the outputs of the trained model and of the file.
        model: the trained model. Its `float_outputs(x)`, if it has one, yields the outputs of its
            float model by their order, or `None`.
        samples: the inputs, by name.
        kinds: what each output is.
        labels: the labels of the samples.
        metric: `(labels, outputs) -> number`; by default the accuracy of a single output of scores.
            `outputs` is an array, or a dict by name if there are several.

    Raises:
        ValueError: the metric does not return a number.
    """
    trained, file = answers.of_trained(), answers.of_file()
    asked = getattr(model, "float_outputs", None)
    names = answers.names
    x = samples if len(samples) > 1 else next(iter(samples.values()))
    found = None if asked is None else asked(x)
    original: dict[str, Array] = {}
    if found is not None:
        shaped = zip(names, found, strict=True)
        original = {name: np.reshape(each, trained[name].shape) for name, each in shaped}
    measured = [name for name in original if trained[name].dtype.kind == "f"]  # no indices
    worth = Worth(
        trained_sqnr={name: _sqnr(original[name], trained[name]) for name in measured},
        file_sqnr={name: _sqnr(original[name], file[name]) for name in measured},
    )
    if metric is None and len(kinds) == 1 and kinds[0].decides:
        metric = _accuracy(kinds[0])
    if labels is None or metric is None:
        return worth
    return dataclasses.replace(
        worth,
        metric=getattr(metric, "__name__", "metric"),
        of_float=_measured(metric, labels, original),
        of_trained=_measured(metric, labels, trained),
        of_file=_measured(metric, labels, file),
    )


def _sqnr(expected: Array, actual: Array) -> float | None:
    expected = expected.astype(np.float64)
    return decibels(float(np.sum(expected**2)), float(np.sum((actual - expected) ** 2)))


def _accuracy(kind: OutputKind) -> Metric:
    def accuracy(labels: Any, outputs: Array) -> float:
        labels = np.asarray(labels)
        if np.issubdtype(outputs.dtype, np.integer):  # indices of the largest
            return float(np.mean(outputs == labels.reshape(outputs.shape)))
        if kind.threshold is not None:
            truth = labels.reshape(outputs.shape) > 0.5
            return float(np.mean((outputs > kind.threshold) == truth))
        if labels.shape == outputs.shape:
            labels = labels.argmax(axis=-1)
        answer = outputs.argmax(axis=-1)
        return float(np.mean(answer == labels.reshape(answer.shape)))

    return accuracy


def _measured(metric: Metric, labels: Any, outputs: dict[str, Array]) -> float | None:
    if not outputs:
        return None
    given = outputs if len(outputs) > 1 else next(iter(outputs.values()))
    value = metric(labels, given)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"metric must return one number for (labels, outputs). Received: {type(value).__name__}"
        ) from error
