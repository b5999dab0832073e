"""A part of a trained model: the model up to tensors inside it, as one more trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.parts import part_of
from tflite_export.graph_of import graph_of
from tflite_export.proof.output_kinds import SCORES, VALUES

Arrays = dict[str, npt.NDArray[Any]]


class PartOfModel:
    """A trained model up to some tensors of its integer network.

    Args:
        model: a trained model with `to_integer()` and `layer_codes(x)`.
        outputs: names of tensors of its integer network.

    Raises:
        ValueError: see `part_of`. A layer whose values are on no grid is told the next tensor that
            is, if the model has `next_on_grid(layer)`.
    """

    def __init__(self, model: Any, outputs: Sequence[str]):
        self._model = model
        self._whole = graph_of(model)
        self._part = part_of(self._whole, _on_grids(model, self._whole, outputs))

    def to_integer(self) -> IntegerGraph:
        """The part of the integer network."""
        return self._part

    @property
    def computing_as(self) -> Any:
        """The context in which the whole model infers as a target, if it can."""
        return getattr(self._model, "computing_as", None)

    def layer_codes(self, x: Any) -> Arrays:
        """The integers of the model in this part. Inputs that the part does not read are zeros."""
        codes = self._model.layer_codes(self._whole_inputs(x))
        return {name: array for name, array in codes.items() if name in self._part.tensors}

    @property
    def output_kinds(self) -> list[tuple[str | None, float | None]]:
        """What the model says of its outputs. Tensors inside it are values, except a softmax."""
        stated = getattr(self._model, "output_kinds", None) or ()
        known = dict.fromkeys(self._whole.outputs, (None, None))
        known |= dict(zip(self._whole.outputs, stated, strict=False))
        softmax = {op.output for op in self._part.ops if isinstance(op, ops.Softmax)}
        inner = {name: (SCORES if name in softmax else VALUES, None) for name in self._part.outputs}
        return [(inner | known)[name] for name in self._part.outputs]

    @property
    def grid_warnings(self) -> tuple[str, ...]:
        """The warnings of the whole model."""
        return tuple(getattr(self._model, "grid_warnings", ()))

    def float_outputs(self, x: Any) -> list[npt.NDArray[Any]] | None:
        """What the float model predicts; `None` if it does not have all outputs of the part."""
        asked = getattr(self._model, "float_outputs", None)
        if asked is None or not set(self._part.outputs) <= set(self._whole.outputs):
            return None
        found = asked(self._whole_inputs(x))
        if found is None:
            return None
        by_name = dict(zip(self._whole.outputs, found, strict=True))
        return [by_name[name] for name in self._part.outputs]

    def _whole_inputs(self, x: Any) -> Any:
        given = x if isinstance(x, Mapping) else {self._part.inputs[0]: x}
        count = len(next(iter(given.values())))
        tensors = (self._whole.tensors[name] for name in self._whole.inputs)
        inputs = {
            each.name: given[each.name]
            if each.name in given
            else np.zeros((count, *each.shape[1:]), "int32" if each.dtype == "int32" else "float32")
            for each in tensors
        }
        return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def _on_grids(model: Any, whole: IntegerGraph, outputs: Sequence[str]) -> Sequence[str]:
    """The names themselves, if the integer network computes them all."""
    asked = getattr(model, "next_on_grid", None)
    for name in outputs:
        behind = asked(name) if asked is not None and name not in whole.tensors else ()
        if behind:
            listed = " or ".join(f"outputs=[{each!r}]" for each in behind)
            raise ValueError(
                f"outputs: what layer {name!r} yields is on no grid. The next tensor on a grid is "
                f"{' or '.join(map(repr, behind))}: pass {listed}. Received: "
                f"outputs={list(outputs)}"
            )
    return outputs
