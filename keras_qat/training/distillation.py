"""`Distillation`: the float teacher of a quantized model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_qat.keras_graph import nodes
from keras_qat.quantizers import SoftmaxRounding
from keras_qat.tensors import Tensor
from keras_qat.training.losses import OF_OUTPUTS, get_distillation_loss

_SMALLEST_PROBABILITY = 1e-30


class Distillation:
    """A teacher and the loss against it, for use in a training step.

    It is not a layer, because Keras must not train the teacher or save it with the student.

    Args:
        student: the model that learns.
        teacher: a model with the same shapes of inputs and outputs as the student. It runs in
            inference mode and gets no gradient.
        loss: `(student_logits, teacher_logits) -> scalar`, or a name in
            `keras_qat.training.losses.DISTILLATION_LOSSES`. "l1" and "l2" compare outputs as they
            are. The losses of several outputs add up.
        label_weight: the factor of the compiled loss on the labels.
        from_logits: whether the outputs of the teacher are logits. `None` reads it from the graph:
            a softmax at the end means probabilities. The outputs of the student always follow from
            its graph.

    Raises:
        ValueError: an unknown loss, a negative weight, a teacher with other shapes than the
            student, a loss on classes for outputs of one number, or a teacher without a graph and
            no `from_logits`.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "jeffreys",
        label_weight: float = 0.0,
        from_logits: bool | None = None,
    ):
        if not isinstance(teacher, keras.Model):
            raise ValueError(f"The teacher must be a Keras model. Received: {teacher!r}")
        if not label_weight >= 0.0:
            raise ValueError(f"The label_weight must be 0 or more. Received: {label_weight!r}")
        self._teacher = teacher
        self._loss = get_distillation_loss(loss)
        self.label_weight = float(label_weight)
        _check_shapes(student, teacher)
        if self._loss in OF_OUTPUTS:
            self._student_is_softmax = self._teacher_is_softmax = False
            return
        _check_classes(student, loss)
        self._student_is_softmax = _ends_in_softmax(student)
        self._teacher_is_softmax = (
            _ends_in_softmax(teacher) if from_logits is None else not from_logits
        )

    def __call__(self, x: Tensor, student_outputs: Any) -> Tensor:
        """The loss of the student's outputs on the inputs `x`, a scalar."""
        teachers = keras.tree.flatten(self._teacher(x, training=False))
        losses = [
            self._loss(
                _logits(student, self._student_is_softmax),
                ops.stop_gradient(_logits(teacher, self._teacher_is_softmax)),
            )
            for student, teacher in zip(keras.tree.flatten(student_outputs), teachers, strict=True)
        ]
        return losses[0] if len(losses) == 1 else ops.sum(ops.stack(losses))


def _logits(outputs: Tensor, are_probabilities: bool) -> Tensor:
    """Logits of the outputs. The logarithms of probabilities are logits: a softmax inverts them."""
    outputs = ops.cast(outputs, "float32")
    if not are_probabilities:
        return outputs
    return ops.log(ops.maximum(outputs, _SMALLEST_PROBABILITY))


def _check_shapes(student: keras.Model, teacher: keras.Model) -> None:
    for what in ("inputs", "outputs"):
        expected = [tuple(tensor.shape) for tensor in getattr(student, what)]
        found = [tuple(tensor.shape) for tensor in getattr(teacher, what, None) or ()]
        if found and found != expected:
            raise ValueError(
                f"The teacher must have {what} of the shapes {expected}, like {student.name!r}. "
                f"Received: {found}"
            )


def _check_classes(student: keras.Model, loss: Any) -> None:
    """A loss on classes of a single number is 0 for all outputs."""
    for tensor in student.outputs if isinstance(loss, str) else ():
        if len(tensor.shape) < 2 or tensor.shape[-1] == 1:
            raise ValueError(
                f"The output {tensor.name!r} of {student.name!r} has the shape {tensor.shape}, "
                f"which is not of two classes or more: the distillation loss {loss!r} compares "
                'probabilities of classes. Use loss="l2" or loss="l1". '
                f"Received: loss={loss!r}"
            )


def _ends_in_softmax(model: keras.Model) -> bool:
    try:
        producers = {id(tensor): node.operation for node in nodes(model) for tensor in node.outputs}
        last = [producers.get(id(tensor)) for tensor in model.outputs]
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"The teacher {model.name!r} has no layer graph to tell whether its outputs are "
            "logits. Pass from_logits=True or from_logits=False."
        ) from error
    softmax = [
        isinstance(layer, keras.layers.Softmax | SoftmaxRounding)
        or getattr(layer, "activation", None) is keras.activations.softmax
        for layer in last
    ]
    if len(set(softmax)) > 1:
        raise ValueError(
            f"Some outputs of {model.name!r} are probabilities and some are logits. Distillation "
            "needs models whose outputs are all logits or all probabilities."
        )
    return softmax[0]
