"""`LivingLayer`: the code of a layer that cannot be copied, on variables of its own."""

from __future__ import annotations

import dataclasses
import uuid
import weakref
from typing import Any

import keras

from keras_qat.borrowed_calls import (
    Pairs,
    borrowed_call,
    build_by_call,
    called_like,
    has_shape_function,
    knows_training,
    variables_that_may_train,
)
from keras_qat.keras_graph import with_inner_layers
from keras_qat.quantizers.custom_gradient import as_tensor

_ALIVE: weakref.WeakValueDictionary[str, keras.layers.Layer] = weakref.WeakValueDictionary()
_NAMES: weakref.WeakKeyDictionary[keras.layers.Layer, str] = weakref.WeakKeyDictionary()
"""Held layers that live in this process, and the names that configurations have for them."""


@dataclasses.dataclass(eq=False)
class _Held:
    """Hides a layer and its variables from Keras, which would track them."""

    layer: Any
    pairs: Pairs | None = None


@keras.saving.register_keras_serializable(package="keras_qat")
class LivingLayer(keras.layers.Layer):
    """Computes in float32 as another layer does, with the code of this very object.

    The variables are its own. They start with the values of the other layer, and train with its
    regularizers and constraints. Random state, running statistics and losses that the call adds
    are its own too. So the other layer, which may be part of a float model, never moves.

    A configuration names the other layer. Where that layer still lives, as for `clone_model`, it is
    used again. In another process it is made from its own configuration, which may need
    `custom_objects`.

    Args:
        layer: the other layer.

    >>> double = keras.layers.Lambda(lambda x: 2 * x, name="double")
    >>> [float(y) for y in LivingLayer(double)(keras.ops.array([0.5, -1.0]))]
    [1.0, -2.0]
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any):
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", "float32")
        trainable = bool(kwargs.pop("trainable", layer.trainable))
        super().__init__(**kwargs)
        self._held = _Held(layer)
        self._flags = tuple(each.trainable for each in with_inner_layers(layer))
        self._take_signature()
        self.supports_masking = layer.supports_masking
        if layer.built:
            self._adopt()
        if trainable is not layer.trainable:
            self.trainable = trainable
        else:
            self._trainable = trainable  # parts of the layer may be frozen, and stay so

    def _take_signature(self) -> None:
        called_like(self, self.held)

    @property
    def held(self) -> Any:
        """The layer whose code runs."""
        return self._held.layer

    @property
    def trainable(self) -> bool:
        return bool(self._trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        self._flags = tuple(bool(value) for _ in self._flags)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._held.pairs is None:
            build_by_call(self.held, self._arguments(args), kwargs)
            self._flags = tuple(each.trainable for each in with_inner_layers(self.held))
            self._adopt()
        return super().__call__(*args, **kwargs)

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        return self._borrowed(args, {**kwargs}, training)

    def _arguments(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of the held layer."""
        return args

    def _borrowed(self, args: Any, kwargs: Any, training: bool | None) -> Any:
        """The outputs of the held layer. New values of variables and losses are kept."""
        if training is not None and knows_training(self.held):
            kwargs["training"] = training
        pairs = self._held.pairs or ()
        halves = self.compute_dtype != "float32"
        result = borrowed_call(self.held, pairs, self._flags, args, kwargs, halves)
        for variable, value in result.updates:
            variable.assign(value)
        for loss in result.losses:
            self.add_loss(loss)
        return result.outputs

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        if not has_shape_function(self.held):
            return super().compute_output_spec(*args, **kwargs)
        if not knows_training(self.held):
            kwargs.pop("training", None)
        found = self.held.compute_output_spec(*args, **kwargs)
        return keras.tree.map_structure(_in_float32, found)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self.held.compute_mask(inputs, previous_mask)

    def again(self, held: Any = None, **changes: Any) -> Any:
        """Another layer of this type, with the same held layer or another one.

        Args:
            held: the held layer; by default the same one.
            **changes: options that differ.
        """
        options = {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy}
        return type(self)(self.held if held is None else held, **{**options, **changes})

    def take_values(self) -> None:
        """Sets the variables to the values of the held layer."""
        for theirs, ours in self._held.pairs or ():
            ours.assign(theirs)

    def _adopt(self) -> None:
        """Adds a variable for each variable of the held layer, with its value."""
        may_train = variables_that_may_train(self.held)
        pairs = [(each, self._own(each, id(each) in may_train)) for each in self.held.variables]
        for theirs, ours in pairs:
            ours.trainable = theirs.trainable
        self._held.pairs = pairs
        self.built = True

    def _own(self, variable: Any, trains: bool) -> Any:
        scope, _, name = variable.path.rpartition("/")
        inside = scope.rpartition(f"{self.held.name}/")[2] if "/" in scope else ""
        return self.add_weight(
            shape=variable.shape,
            initializer=lambda *_, **__: as_tensor(variable),
            dtype=variable.dtype,
            trainable=trains,
            autocast=False,
            regularizer=variable.regularizer,
            constraint=variable.constraint,
            aggregation=variable.aggregation,
            name="_".join([*filter(None, inside.split("/")), name]),
        )

    def get_config(self) -> dict[str, Any]:
        name = _NAMES.setdefault(self.held, str(uuid.uuid4()))
        _ALIVE[name] = self.held
        try:
            layer = keras.saving.serialize_keras_object(self.held)
        except Exception:  # `QuantizedModel.save` has refused it; `clone_model` needs none
            layer = None
        return {**super().get_config(), "layer": layer, "held": name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LivingLayer:
        """The layer with this configuration.

        Raises:
            ValueError: the layer cannot be made from its own configuration. The message says what
                it needs.
        """
        config = dict(config)
        alive, layer = _ALIVE.get(config.pop("held", "")), config.pop("layer", None)
        if alive is None:
            try:
                if layer is None:
                    raise ValueError("the layer had no configuration when it was saved")
                alive = keras.saving.deserialize_keras_object(layer, custom_objects)
            except Exception as error:
                kind = "" if layer is None else f" ({layer['class_name']})"
                raise ValueError(
                    f"Layer {config['name']!r}{kind}, in float, is of code that the file does not "
                    "hold. Pass custom_objects={its class name: its class}, or for a Lambda "
                    f"safe_mode=False, to keras_qat.load_model. Received: {error}"
                ) from error
        return cls(alive, **config)


class _Branch(LivingLayer):
    """Base of layers that run the code of another layer in training alone.

    Args:
        layer: the other layer.
        losses: whether its call adds losses in inference too.
    """

    def __init__(self, layer: keras.layers.Layer, losses: bool = False, **kwargs: Any):
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self.losses_in_inference = losses

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        if not training and not self.losses_in_inference:
            return args[0]
        outputs = self._borrowed(self._arguments(args), kwargs, training)
        return outputs if training else args[0]

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return keras.KerasTensor(args[0].shape, self.compute_dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return previous_mask

    def again(self, held: Any = None, **changes: Any) -> Any:
        return super().again(held, losses=self.losses_in_inference, **changes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "losses": self.losses_in_inference}


@keras.saving.register_keras_serializable(package="keras_qat")
class LivingIdentity(_Branch):
    """The identity in inference, as Dropout is. In training, the code of another layer.

    >>> noise = keras.layers.Lambda(lambda x, training=None: 2 * x if training else x)
    >>> [float(y) for y in LivingIdentity(noise)(keras.ops.array([0.5, -1.0]))]
    [0.5, -1.0]
    """


@keras.saving.register_keras_serializable(package="keras_qat")
class LivingBranch(_Branch):
    """Its first argument in inference. In training, the code of another layer on the others."""

    def _take_signature(self) -> None:
        called_like(self, self.held, first="inferred")

    def _arguments(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args[1:]


def _in_float32(tensor: Any) -> Any:
    """The symbolic tensor, in float32 if it is in half precision."""
    half = tensor.dtype in ("float16", "bfloat16")
    return keras.KerasTensor(tensor.shape, "float32") if half else tensor
