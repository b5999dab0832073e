"""What an output is for a loss against a teacher: logits, probabilities or values."""

from __future__ import annotations

import enum
from typing import Any

import keras

from keras_qat.copying import builtin_name
from keras_qat.keras_graph import has_graph, is_graph, nodes
from keras_qat.quantizers import PutsOnGrid, SoftmaxRounding
from keras_qat.training.output_kinds import Kind, compiled_for_outputs, kind_of, reads_logits

_PASSED_THROUGH = ("Identity", "Dropout", "Reshape", "Flatten", "ActivityRegularization", "Cast")
"""Operations that change no number. A last axis of another size ends the search."""


class Family(enum.Enum):
    """What an output predicts."""

    CLASSES = "one of several classes"
    LABELS = "labels that are true or false, each by itself"
    VALUES = "numbers"


class Form(enum.Enum):
    """How an output states it."""

    CLASS_LOGITS = (Family.CLASSES, False)
    CLASS_PROBABILITIES = (Family.CLASSES, True)
    LABEL_LOGITS = (Family.LABELS, False)
    LABEL_PROBABILITIES = (Family.LABELS, True)
    VALUES = (Family.VALUES, False)

    @property
    def family(self) -> Family:
        """What the output predicts."""
        return self.value[0]

    @property
    def is_probabilities(self) -> bool:
        """Whether the numbers are probabilities."""
        return self.value[1]


def output_forms(model: keras.Model) -> list[Form | None]:
    """The form of every output; `None` where neither the graph nor the compiled loss tells.

    A softmax at the end yields probabilities of classes. A sigmoid yields probabilities of labels,
    unless the model is compiled with a loss of values. Any other output is what its compiled loss
    reads.

    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, [keras.layers.Dense(3)(x), keras.layers.Dense(3, "softmax")(x)])
    >>> output_forms(model)
    [None, <Form.CLASS_PROBABILITIES: (<Family.CLASSES: 'one of several classes'>, True)>]
    >>> model.compile("sgd", ["mse", "categorical_crossentropy"])
    >>> output_forms(model)[0].name
    'VALUES'
    """
    losses = compiled_for_outputs(model)
    ends = [_activation_at(model, tensor) for tensor in model.outputs]
    return [_form(end, loss) for end, loss in zip(ends, losses, strict=True)]


def of_family(family: Family, probabilities: bool) -> Form:
    """The form of an output of this family.

    >>> of_family(Family.LABELS, probabilities=False).name
    'LABEL_LOGITS'
    """
    return Form.VALUES if family is Family.VALUES else Form((family, probabilities))


def ends_in_own_code(model: keras.Model) -> bool:
    """Whether an output comes from code whose meaning is unknown: a layer that is not of Keras."""
    return any(_activation_at(model, tensor) is None for tensor in model.outputs)


def _form(end: str | None, loss: Any) -> Form | None:
    kind, threshold = kind_of(loss)
    if end == "softmax":
        return Form.CLASS_PROBABILITIES
    if end == "sigmoid" and kind != "values":
        return Form.LABEL_PROBABILITIES
    return _form_of_loss((kind, threshold), loss)


def _form_of_loss(kind: Kind, loss: Any) -> Form | None:
    name, threshold = kind
    if name is None:
        return None
    if name == "values":
        return Form.VALUES
    if threshold is None:
        return of_family(Family.CLASSES, probabilities=not reads_logits(loss))
    if threshold == 0.0 and not reads_logits(loss):  # a hinge: the sign decides
        return Form.VALUES
    return of_family(Family.LABELS, probabilities=not reads_logits(loss))


def _activation_at(model: Any, tensor: Any) -> str | None:
    """The activation that makes a tensor: its name, or "linear"; `None` behind unknown code."""
    made_by = {id(output): node for node in nodes(model) for output in node.outputs}
    size = tensor.shape[-1] if tensor.shape else None
    node = made_by.get(id(tensor))
    while node is not None and _passes_through(node.operation):
        tensor = node.inputs[0]
        if not tensor.shape or tensor.shape[-1] != size:
            return "linear"
        node = made_by.get(id(tensor))
    if node is None:
        return "linear"
    operation = node.operation
    while isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    if has_graph(operation):
        if not is_graph(operation):
            return None
        index = [id(each) for each in node.outputs].index(id(tensor))
        return _activation_at(operation, operation.outputs[index])
    return _activation_of(operation)


def _passes_through(operation: Any) -> bool:
    linear = builtin_name(getattr(operation, "activation", None)) == "linear"
    if type(operation) is keras.layers.Activation and linear:
        return True
    return isinstance(operation, PutsOnGrid) or type(operation).__name__ in _PASSED_THROUGH


def _activation_of(operation: Any) -> str | None:
    """What a layer or an operation ends in."""
    if isinstance(operation, SoftmaxRounding):
        return "softmax"
    kind = type(operation)
    if not kind.__module__.startswith(("keras.", "keras_qat.")) or kind is keras.layers.Lambda:
        return None
    if isinstance(operation, keras.layers.Softmax) or kind.__name__ in ("Softmax", "Sigmoid"):
        over = getattr(operation, "axis", -1)
        return kind.__name__.lower() if over in (-1, None) else "linear"
    if isinstance(operation, keras.layers.RNN):  # what its activation yields is multiplied by gates
        return "linear"
    function = getattr(operation, "activation", None)
    name = builtin_name(function)
    return "linear" if function is None else name
