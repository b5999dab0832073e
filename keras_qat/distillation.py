"""`Distillation`: the float teacher of a quantized model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_qat.keras_graph import nodes
from keras_qat.objectives import get_distillation_loss

Tensor = Any

_SMALLEST_PROBABILITY = 1e-30


class Distillation:
    """A teacher and the loss against it, for inside a training step.

    It is no layer on purpose: Keras must neither save the teacher with the student nor train it.

    Args:
        teacher: a model with inputs and outputs like the student's. It runs in inference mode and
            gets no gradient.
        loss: `(student_logits, teacher_logits) -> scalar`, or a name in
            `keras_qat.objectives.DISTILLATION_LOSSES`. Of several outputs the losses add up.
        label_weight: how much of the compiled loss on the labels is added.
        from_logits: whether outputs are logits; found out where the teacher's graph tells:
            a softmax at its end means that they are probabilities.

    Raises:
        ValueError: a loss without that name, a negative weight, or a teacher without a graph and
            no `from_logits`.
    """

    def __init__(
        self,
        teacher: keras.Model,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "jeffreys",
        label_weight: float = 0.0,
        from_logits: bool | None = None,
    ):
        if not callable(teacher):
            raise ValueError(f"A teacher is a Keras model. Received: {teacher!r}")
        if not label_weight >= 0.0:
            raise ValueError(f"The label_weight must be 0 or more. Received: {label_weight!r}")
        self._teacher = teacher
        self._loss = get_distillation_loss(loss)
        self.label_weight = float(label_weight)
        self._probabilities = _ends_in_softmax(teacher) if from_logits is None else not from_logits

    def __call__(self, x: Tensor, student_outputs: Any) -> Tensor:
        """The loss of the student's outputs for the inputs `x`, a scalar."""
        teacher_outputs = keras.tree.flatten(self._teacher(x, training=False))
        students = keras.tree.flatten(student_outputs)
        if len(students) != len(teacher_outputs):
            raise ValueError(
                f"The teacher has {len(teacher_outputs)} outputs, the student {len(students)}: "
                "they need as many, in the same order."
            )
        losses = [
            self._loss(self._logits(student), self._logits(ops.stop_gradient(teacher)))
            for student, teacher in zip(students, teacher_outputs, strict=True)
        ]
        return losses[0] if len(losses) == 1 else ops.sum(ops.stack(losses))

    def _logits(self, outputs: Tensor) -> Tensor:
        """Logits: of probabilities their logarithm, which a softmax turns back into them."""
        outputs = ops.cast(outputs, "float32")
        if not self._probabilities:
            return outputs
        return ops.log(ops.maximum(outputs, _SMALLEST_PROBABILITY))


def _ends_in_softmax(model: keras.Model) -> bool:
    try:
        producers = {id(tensor): node.operation for node in nodes(model) for tensor in node.outputs}
        last = [producers.get(id(tensor)) for tensor in model.outputs]
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"The teacher {getattr(model, 'name', model)!r} has no layer graph that tells whether "
            "its outputs are logits: pass from_logits=True or from_logits=False."
        ) from error
    softmax = [
        isinstance(layer, keras.layers.Softmax)
        or getattr(layer, "activation", None) is keras.activations.softmax
        for layer in last
    ]
    if len(set(softmax)) > 1:
        raise ValueError(
            "Some outputs of the teacher are probabilities and some are not: distill from a model "
            "where all are logits."
        )
    return softmax[0]
