"""What each output of a network is, scores or values, and so how its answers are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_qat.integer import IntegerGraph, ops

SCORES, VALUES = "scores", "values"
KINDS = (SCORES, VALUES)

_SIGMOID_TOP = 1.0


@dataclasses.dataclass(frozen=True)
class OutputKind:
    """What an output is.

    Attributes:
        kind: `"scores"` decide something, `"values"` are read as numbers; `None` is not known.
        threshold: with one, every number decides by the side of it on which it lies. Without, the
            largest number along the last axis decides.
    """

    kind: str | None = None
    threshold: float | None = None

    @property
    def decides(self) -> bool:
        """Whether answers can be compared: scores, and outputs of unknown kind with channels."""
        return self.kind != VALUES


def check_kinds(graph: IntegerGraph, given: Mapping[str, str] | None) -> dict[str, str]:
    """The kinds that a caller gives, by output name.

    Raises:
        ValueError: no such output, or no such kind.
    """
    given = dict(given or {})
    for name, kind in given.items():
        if name not in graph.outputs:
            raise ValueError(
                f"outputs: the model has no output {name!r}; it has {sorted(graph.outputs)}. "
                f"Received: outputs={given!r}"
            )
        if kind not in KINDS:
            raise ValueError(
                f"outputs: the output {name!r} is 'scores' or 'values'. Received: {kind!r}"
            )
    return given


def output_kinds(
    graph: IntegerGraph, model: Any, given: Mapping[str, str] | None = None
) -> dict[str, OutputKind]:
    """The kind of every output: as the caller says, as the model's loss tells, or by its softmax.

    Args:
        graph: the graph.
        model: the trained model. Its `output_kinds`, if it has any, are pairs of a kind and a
            threshold for each output, in their order.
        given: `"scores"` or `"values"` by output name.

    Raises:
        ValueError: see `check_kinds`.
    """
    told = check_kinds(graph, given)
    stated = getattr(model, "output_kinds", None) or [(None, None)] * len(graph.outputs)
    softmax = {op.output for op in graph.ops if isinstance(op, ops.Softmax)}
    found = {}
    for name, (kind, threshold) in zip(graph.outputs, stated, strict=True):
        kind = told.get(name, kind or (SCORES if name in softmax else None))
        if graph.tensors[name].dtype == "int32":
            found[name] = OutputKind(SCORES)  # indices of the largest
            continue
        one = graph.tensors[name].shape[-1] == 1
        if kind == VALUES or not one:
            found[name] = OutputKind(kind, threshold if kind == SCORES else None)
        elif kind is None:
            found[name] = OutputKind(VALUES)
        else:
            found[name] = OutputKind(kind, _threshold(graph, name, threshold))
    return found


def _threshold(graph: IntegerGraph, name: str, known: float | None) -> float:
    """The threshold of one score: one half for a probability, zero for a logit."""
    if known is not None:
        return known
    tensor = graph.tensors[name]
    if not tensor.on_grid:
        return 0.0
    ends = tensor.dequantize(np.array([tensor.qparams.qmin, tensor.qparams.qmax], np.int8))
    return 0.5 if ends[0] >= 0.0 and ends[1] <= _SIGMOID_TOP + float(ends[1] / 128) else 0.0
