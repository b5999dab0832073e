"""Keeps the training and evaluation steps of a user's model class on the quantized model."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Collection
from typing import Any

import keras

from keras_qat.training.user_code import mentioned_names, own_kinds

STEPS = (
    *("train_step", "test_step", "predict_step"),
    *("compute_loss", "compute_metrics", "stateless_compute_loss"),
)
"""The methods that make a class one with steps of its own."""

_KEPT = {
    *(*STEPS, "metrics", "reset_metrics"),
    *("compile", "get_compile_config", "compile_from_config"),
}
_OF_THE_GRAPH = ("__init__", "call", "__call__", "build", "get_config", "from_config")
_OF_ANY_CLASS = {"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__"}
_OF_AN_INSTANCE = {"target", "plan", "bit_width_penalty", "discretization_log"}
_STATEFUL = (keras.Metric, keras.Optimizer, keras.random.SeedGenerator)

_ATTRIBUTES: weakref.WeakKeyDictionary[keras.Model, dict[str, Any]] = weakref.WeakKeyDictionary()
"""Of each model with steps of a user's class, the attributes that these read, as templates."""

_CLASSES: dict[tuple[type, type], type] = {}


@keras.saving.register_keras_serializable(package="keras_qat")
class GraphLayer:
    """Stands for the layer with this name in the graph of any model."""

    def __init__(self, name: str):
        self.name = name

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GraphLayer:
        return cls(**config)


class StepsNotKeptError(ValueError):
    """The steps of a class cannot live on a quantized model. The message says why."""


def read_attributes(
    model: keras.Model, base: type[keras.Model], layer_names: Collection[str]
) -> dict[str, Any]:
    """The attributes of a float model that the steps of its class read, as templates.

    Args:
        model: the float model.
        base: the class of the quantized model.
        layer_names: the names of the layers that the quantized model has too.

    Raises:
        StepsNotKeptError: the steps read something that the quantized model does not have.
    """
    if isinstance(model, keras.Sequential):
        raise StepsNotKeptError("a quantized model is no Sequential model")
    of_keras = _names_of_any_model()
    read = mentioned_names(type(model), without=_OF_THE_GRAPH)
    found = {name: each for name, each in vars(model).items() if name in read - of_keras}
    ours = (set(dir(base)) - of_keras) | _OF_AN_INSTANCE
    clashes = ours & (set(found) | _own_names(type(model)))
    if clashes:
        raise StepsNotKeptError(f"a quantized model has a {min(clashes)!r} of its own")
    return {name: _template(name, value, set(layer_names)) for name, value in found.items()}


def _own_names(kind: type) -> set[str]:
    return {name for own in own_kinds(kind) for name in vars(own)}


def _names_of_any_model() -> set[str]:
    features = keras.Input((1,), name="features")
    model = keras.Model(features, features, name="any_model")
    model.compile("sgd", "mse")
    return {*dir(model), "history"}


def _template(name: str, found: Any, layer_names: set[str]) -> Any:
    def of_leaf(value: Any) -> Any:
        if isinstance(value, keras.layers.Layer) and value.name in layer_names:
            return GraphLayer(value.name)
        if isinstance(value, keras.Variable):
            raise StepsNotKeptError(f"they read the variable {name!r}")
        if isinstance(value, keras.layers.Layer) and value.trainable_variables:
            raise StepsNotKeptError(
                f"they read {name!r}, and the quantized model has no layer {value.name!r}"
            )
        return value

    return keras.tree.map_structure(of_leaf, found)


def stepping_class(base: type[keras.Model], kind: type) -> type[keras.Model]:
    """The class of a quantized model with the steps of a user's class.

    Its `super()` in a step is the quantized model. Of everything else that both classes define,
    such as `call`, the quantized model's counts.

    Args:
        base: the class of the quantized model.
        kind: the user's class; `base` itself if that is a class of Keras.
    """
    if issubclass(base, kind):
        return base
    if (base, kind) not in _CLASSES:
        _make_functional(base)
        names = _own_names(kind) - _KEPT - _OF_ANY_CLASS
        ours = {name: inspect.getattr_static(base, name) for name in names if hasattr(base, name)}
        graph_kind = type(kind.__name__, (kind, base), ours)
        about = {"__module__": base.__module__, "__doc__": base.__doc__, "step_class": kind}
        made = type(base.__name__, (_Stepping, graph_kind), about)
        # A file names the base, which finds the user's class by an entry of the configuration.
        for each in (made, base):
            keras.saving.register_keras_serializable(package="keras_qat")(each)
        _CLASSES[base, kind] = made
    return _CLASSES[base, kind]


def _make_functional(base: type[keras.Model]) -> None:
    """Makes one model of a class: at the first one, Keras changes what all its bases derive from.

    Without it, Keras would change the user's class.
    """
    features = keras.Input((1,), name="features")
    base(features, features, name="first")


def give_attributes(model: keras.Model, attributes: dict[str, Any]) -> None:
    """Sets on a model with steps of its own the attributes that these read."""
    _ATTRIBUTES[model] = attributes
    for name, template in attributes.items():
        value = keras.tree.map_structure(lambda leaf: _instance(model, leaf), template)
        if _has_layers(template):
            object.__setattr__(model, name, value)  # the model tracks its layers already
        else:
            setattr(model, name, value)


def _instance(model: keras.Model, template: Any) -> Any:
    if isinstance(template, GraphLayer):
        return model.get_layer(template.name)
    if isinstance(template, _STATEFUL):
        return type(template).from_config(template.get_config())
    return template


def steps_config(model: keras.Model) -> dict[str, Any]:
    """An entry of a model's configuration, which `steps_of_config` reads; empty without steps."""
    kind = getattr(model, "step_class", None)
    if kind is None:
        return {}
    stated = {name: _serialized(value) for name, value in _current(model).items()}
    attributes = {name: config for name, config in stated.items() if config is not None}
    return {
        "class_name": kind.__name__,
        "registered_name": keras.saving.get_registered_name(kind),
        "attributes": attributes,
    }


def _serialized(value: Any) -> Any:
    try:
        return keras.saving.serialize_keras_object(value)
    except (TypeError, ValueError, NotImplementedError):
        return None  # Keras refuses an object without a configuration by one of these


def steps_of_config(config: dict[str, Any], custom_objects: Any) -> tuple[type, dict[str, Any]]:
    """The user's class, and the attributes that its steps read.

    Raises:
        ValueError: the class is not known here.
    """
    name = config["class_name"]
    kind = keras.saving.get_registered_object(config["registered_name"], custom_objects)
    if kind is None:
        raise ValueError(
            f"The model trains by steps of the class {name!r}, which is not known here. Received: "
            f"custom_objects={custom_objects!r}. Pass custom_objects={{{name!r}: {name}}} to "
            f"keras_qat.load_model, or custom_objects={{{name!r}: keras.Model}} to load it without "
            "these steps."
        )
    if kind is keras.Model:
        return kind, {}
    with keras.saving.custom_object_scope(custom_objects or {}):
        found = config["attributes"].items()
        return kind, {name: keras.saving.deserialize_keras_object(each) for name, each in found}


def code_of_steps(model: keras.Model) -> list[Any]:
    """The user's class, and the objects that its steps read: a file needs their code."""
    kind = getattr(model, "step_class", None)
    if kind is None:
        return []
    return [kind, *keras.tree.flatten(_current(model))]


def lost_in_a_file(model: keras.Model) -> list[str]:
    """The names of attributes that the steps read and that a file cannot hold."""
    found = _current(model).items()
    return [name for name, value in found if value is not None and _serialized(value) is None]


def _current(model: keras.Model) -> dict[str, Any]:
    """The attributes that the steps read as they are now, with `GraphLayer`s for layers."""
    templates = _ATTRIBUTES.get(model, {}).items()
    return {
        name: template if _has_layers(template) else getattr(model, name, None)
        for name, template in templates
    }


def _has_layers(template: Any) -> bool:
    return any(isinstance(leaf, GraphLayer) for leaf in keras.tree.flatten(template))


class _Stepping:
    """Goes before a user's class: no step loses the terms of quantization silently."""

    step_class: type
    _took_terms = False

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        self._took_terms = False
        model: Any = super()
        result = model.train_step(*args, **kwargs)
        if not self._took_terms:
            self._check_terms("train_step", "loss_terms")
        return result

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of the user's class; the terms of quantization join if that leaves them out."""
        model: Any = super()
        mode = {"training": training} if _has_mode(model.compute_loss) else {}
        before, self._took_terms = self._took_terms, False
        loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, **mode)
        if training and not self._took_terms:
            self._check_terms("compute_loss", "task_terms")
            loss = self.quantization_loss(loss)
        self._took_terms |= before
        return loss

    def quantization_loss(self, task_loss: Any) -> Any:
        self._took_terms = True
        model: Any = super()
        return model.quantization_loss(task_loss)

    def _check_terms(self, method: str, terms: str) -> None:
        model: Any = self
        lost = getattr(model, terms)()
        if lost:
            raise ValueError(
                f"Model {model.name!r}: {method} of the class {self.step_class.__name__!r} leaves "
                f"out {' and '.join(lost)}. Received: {method}, which calls neither "
                "quantization_loss nor compute_loss of the model. Take the loss from "
                "compute_loss(x, y, y_pred, sample_weight), by super() in a compute_loss."
            )


def _has_mode(compute_loss: Any) -> bool:
    parameters = inspect.signature(compute_loss).parameters.values()
    return any(
        each.name == "training" or each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters
    )
