"""`Distillation`: the float teacher of a quantized model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_qat.keras_graph import flat_inputs, has_graph, input_keys, input_structure
from keras_qat.tensors import Tensor
from keras_qat.training.losses import (
    OF_OUTPUTS,
    TeacherLoss,
    get_distillation_loss,
    mean_squared_difference,
    per_position,
)
from keras_qat.training.output_forms import (
    Family,
    Form,
    ends_in_own_code,
    of_family,
    output_forms,
)
from keras_qat.training.output_kinds import compiled_for_outputs, output_keys

_SMALLEST_PROBABILITY = 1e-30
_LEAST_DOUBT = 1e-7
"""How far the probability of a label stays from 0 and 1: in float32, 1 less a smaller one is 1."""


class Distillation:
    """A teacher and the loss against it, for use in a training step.

    It is not a layer, because Keras must not train the teacher or save it with the student.

    Args:
        student: the model that learns.
        teacher: a model with the same shapes of inputs and outputs as the student. It runs in
            inference mode and gets no gradient. Inputs and outputs with the same names belong
            together; without any common name, those at the same position.
        loss: `(student_logits, teacher_logits) -> loss`, or a name in
            `keras_qat.training.losses.DISTILLATION_LOSSES`. "l1" and "l2" compare outputs as they
            are. `None` takes "jeffreys" for classes and labels, and "l2" for values. A function
            returns one number, or one for each example. The losses of several outputs add up,
            multiplied by the `loss_weights` of `compile`.
        label_weight: the factor of the compiled loss on the labels.
        from_logits: whether the teacher yields logits of classes or labels. `None` reads it from
            its graph and its compiled loss. The outputs of the student always follow from its own.

    Raises:
        ValueError: an unknown loss, a negative weight, a teacher whose names or shapes do not fit,
            a loss on classes for outputs of one number, or outputs that may be anything.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        loss: str | TeacherLoss | None = None,
        label_weight: float = 0.0,
        from_logits: bool | None = None,
    ):
        if not isinstance(teacher, keras.Model):
            raise ValueError(f"The teacher must be a Keras model. Received: {teacher!r}")
        if not label_weight >= 0.0:
            raise ValueError(f"The label_weight must be 0 or more. Received: {label_weight!r}")
        self._student, self._teacher = student, teacher
        self._given = loss
        self._loss = None if loss is None else get_distillation_loss(loss)
        self._from_logits = from_logits
        self.label_weight = float(label_weight)
        self._has_graph = has_graph(teacher)
        self._input_order = self._order_of_inputs()
        if self._has_graph:
            self._check_shapes()
        if student.compiled:
            self.compared()

    def __call__(self, x: Tensor, student_outputs: Any, sample_weight: Any = None) -> Tensor:
        """The loss of the student's outputs on the inputs `x`, a scalar.

        With several replicas it is the share of this one, as every loss of Keras is.

        Args:
            x: inputs of the student.
            student_outputs: what the student yields for them, with their masks.
            sample_weight: weights of the examples, or of their positions, as `compile` takes them.
        """
        students = keras.tree.flatten(student_outputs)
        teachers = self._teachers(x)
        weights = self._weights(sample_weight, len(students))
        factors = compiled_for_outputs(self._student, "_user_loss_weights")
        losses = []
        for compared, student, teacher, weight, factor in zip(
            self.compared(), students, teachers, weights, factors, strict=True
        ):
            loss = compared(ops.stop_gradient(teacher), student, _at_rank(weight, student))
            losses.append(loss if factor is None else factor * loss)
        return losses[0] if len(losses) == 1 else ops.sum(ops.stack(losses))

    def compared(self) -> list[_Compared]:
        """How each output is compared with the teacher's.

        Raises:
            ValueError: outputs that may be anything, or a loss that does not fit them.
        """
        keys = output_keys(self._student)
        students = output_forms(self._student)
        teachers = self._teacher_forms()
        return [
            self._comparison(index, key, student, teacher)
            for index, (key, student, teacher) in enumerate(
                zip(keys, students, teachers, strict=True)
            )
        ]

    def _comparison(
        self, index: int, key: str, student: Form | None, teacher: Form | None
    ) -> _Compared:
        where = f"The output {key!r} of {self._student.name!r}"
        if self._loss in OF_OUTPUTS:
            return _Compared(self._loss, Form.VALUES, Form.VALUES, where)
        known = student or teacher
        family = None if known is None else known.family
        if family is None and (self._loss is not None or self._from_logits is not None):
            family = Family.CLASSES  # the caller says so
        if family is None:
            raise ValueError(
                f"{where} may be logits of classes or values: neither the graph nor the compiled "
                'loss tells. Call distill_from(loss="jeffreys") for classes, or '
                'distill_from(loss="l2") for values. Received: loss=None'
            )
        of_classes = isinstance(self._given, str) or self._from_logits is not None
        if family is Family.VALUES and of_classes:
            family = Family.CLASSES
        student = of_family(family, bool(student and student.is_probabilities))
        if family is Family.VALUES:
            return _Compared(self._loss or mean_squared_difference, student, student, where)
        if teacher is not None and teacher.family not in (family, Family.VALUES):
            raise ValueError(
                f"{where} predicts {family.value}, and the teacher's {teacher.family.value}. Pass "
                'a teacher of the same kind, or loss="l2". '
                f"Received: the teacher {self._teacher.name!r}"
            )
        self._check_classes(index, family, where)
        loss = get_distillation_loss("jeffreys") if self._loss is None else self._loss
        return _Compared(loss, student, self._teacher_form(family, teacher), where)

    def _teacher_form(self, family: Family, found: Form | None) -> Form:
        if self._from_logits is not None:
            return of_family(family, not self._from_logits)
        if found is not None:
            return of_family(family, found.is_probabilities)
        if self._has_graph and not ends_in_own_code(self._teacher):
            return of_family(family, probabilities=False)
        raise ValueError(
            f"Nothing tells whether the outputs of the teacher {self._teacher.name!r} are logits. "
            "Pass from_logits=True or from_logits=False. Received: from_logits=None"
        )

    def _check_classes(self, index: int, family: Family, where: str) -> None:
        """A loss on classes of a single number is 0 for all outputs."""
        shape = self._student.outputs[index].shape
        if family is not Family.CLASSES or not isinstance(self._given, str | None):
            return
        if len(shape) < 2 or shape[-1] == 1:
            raise ValueError(
                f"{where} has the shape {shape}, which is not of two classes or more: the "
                f"distillation loss {self._given!r} compares probabilities of classes. Use "
                f'loss="l2" or loss="l1". Received: loss={self._given!r}'
            )

    def _teacher_forms(self) -> list[Form | None]:
        count = len(self._student.outputs)
        if not self._has_graph:
            return [None] * count
        forms = output_forms(self._teacher)
        return [forms[index] for index in self._order_of_outputs(output_keys(self._teacher))]

    def _teachers(self, x: Any) -> list[Tensor]:
        """The teacher's outputs in the order of the student's."""
        if self._input_order is not None:
            flat = flat_inputs(self._student, x)
            flat = [flat[index] for index in self._input_order]
            x = keras.tree.pack_sequence_as(input_structure(self._teacher), flat)
        found = self._teacher(x, training=False)
        if isinstance(found, dict) and not any(map(keras.tree.is_nested, found.values())):
            values, keys = list(found.values()), list(map(str, found))
        else:
            values = keras.tree.flatten(found)
            keys = output_keys(self._teacher) if self._has_graph else []
        return [values[index] for index in self._order_of_outputs(keys or [""] * len(values))]

    def _order_of_inputs(self) -> list[int] | None:
        """Which of the student's inputs each input of the teacher gets; `None` without a graph."""
        if not self._has_graph:
            return None
        return _order(input_keys(self._teacher), input_keys(self._student), "input", self._teacher)

    def _order_of_outputs(self, keys: Sequence[str]) -> list[int]:
        """Which of the teacher's outputs teaches each output of the student."""
        return _order(output_keys(self._student), keys, "output", self._teacher)

    def _check_shapes(self) -> None:
        order = self._input_order or []
        inputs = [self._student.inputs[index] for index in order]
        outputs = self._order_of_outputs(output_keys(self._teacher))
        pairs = {
            "inputs": (inputs, self._teacher.inputs),
            "outputs": (self._student.outputs, [self._teacher.outputs[i] for i in outputs]),
        }
        for what, (students, teachers) in pairs.items():
            expected = [tuple(each.shape) for each in students]
            found = [tuple(each.shape) for each in teachers]
            if expected != found:
                raise ValueError(
                    f"The teacher must have {what} of the shapes {expected}, like "
                    f"{self._student.name!r}. Received: {found}"
                )

    def _weights(self, given: Any, count: int) -> list[Any]:
        """One weight for every output. One array, as class weights make it, counts for all."""
        if isinstance(given, dict):
            return [given.get(key) for key in output_keys(self._student)]
        flat = list(keras.tree.flatten(given))
        return flat * count if len(flat) == 1 else flat


class _Compared(keras.losses.Loss):
    """The loss of one output against a teacher's, weighted and masked as Keras does it."""

    def __init__(self, loss: TeacherLoss, student: Form, teacher: Form, where: str):
        super().__init__("distillation", dtype="float32")
        self._values = per_position(loss)
        self._is_built_in = self._values is not loss
        self._forms, self._where = (student, teacher), where

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        self._is_weighted = sample_weight is not None or _mask_of(y_pred) is not None
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        pair = (student, teacher)
        logits = [_logits(each, form) for each, form in zip(pair, self._forms, strict=True)]
        if self._forms[0].family is Family.LABELS and self._is_built_in:
            logits = [ops.stack([ops.zeros_like(each), each], axis=-1) for each in logits]
        values = ops.convert_to_tensor(self._values(*logits))
        if self._is_weighted and len(values.shape) == 0:
            raise ValueError(
                f"{self._where}: its distillation loss returns one number, which weights of "
                "samples, classes or masked steps cannot multiply. Return one number for each "
                "example. Received: a scalar"
            )
        extra = len(values.shape) - max(len(student.shape) - 1, 1)
        return ops.mean(values, axis=-1) if extra == 1 and self._is_built_in else values


def _logits(outputs: Tensor, form: Form) -> Tensor:
    """Logits of the outputs. The logarithms of probabilities are logits: a softmax inverts them."""
    if form is Form.CLASS_PROBABILITIES:
        return ops.log(ops.maximum(outputs, _SMALLEST_PROBABILITY))
    if form is Form.LABEL_PROBABILITIES:
        known = ops.clip(outputs, _LEAST_DOUBT, 1.0 - _LEAST_DOUBT)
        return ops.log(known) - ops.log(1.0 - known)
    return outputs


def _at_rank(weight: Any, outputs: Tensor) -> Any:
    """Weights with axes of size 1 behind, so that each example's counts for its positions."""
    if weight is None:
        return None
    weight = ops.convert_to_tensor(weight)
    for _ in range(len(outputs.shape) - 1 - len(weight.shape)):
        weight = ops.expand_dims(weight, -1)
    return weight


def _mask_of(outputs: Tensor) -> Any:
    return getattr(outputs, "_keras_mask", None)


def _order(
    wanted: Sequence[str], given: Sequence[str], what: str, teacher: keras.Model
) -> list[int]:
    """For each wanted name, the place where it is given.

    Raises:
        ValueError: another number of names, or only some names are the same.
    """
    if len(wanted) != len(given):
        raise ValueError(
            f"The teacher {teacher.name!r} must have as many {what}s as the student. "
            f"Received: {sorted((len(wanted), len(given)))}"
        )
    if set(wanted) == set(given) and len(set(given)) == len(given):
        return [given.index(name) for name in wanted]
    if any(a != b and (a in given or b in wanted) for a, b in zip(wanted, given, strict=True)):
        raise ValueError(
            f"The {what}s of the teacher {teacher.name!r} belong to the student's neither by name "
            f"nor by place. Give them the same names. Received: {list(wanted)} and {list(given)}"
        )
    return list(range(len(given)))
