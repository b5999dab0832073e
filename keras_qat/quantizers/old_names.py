"""Quantizers of earlier releases: by these names files state them, and users may still make them.

`LSQQuantizer` and `STEQuantizer` quantized weights and activations alike. In a file, such a name is
read by its place: the quantizer of a wrapper's kernel (`deserialize_weight_quantizer`) as the one
of weights, any other as the one of activations. Configs with options that activations no longer
have are read by `ActivationQuantizer.from_config`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from keras_qat.deprecation import warn_deprecated
from keras_qat.quantizers.lsq import LSQActivationQuantizer, LSQWeightQuantizer
from keras_qat.quantizers.quantizer import Quantizer
from keras_qat.quantizers.ste import STEActivationQuantizer, STEWeightQuantizer
from keras_qat.quantizers.weight_quantizer import WeightQuantizer


class _ForBoth(Quantizer):
    """Mixed into a class that quantized weights and activations alike."""

    old_name: ClassVar[str]
    instead: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any):
        warn_deprecated(f"keras_qat.{self.old_name}", self.instead)
        super().__init__(*args, **kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Quantizer:
        """The quantizer of activations that a file means; wrappers read theirs themselves.

        Of a subclass of the user's own, that subclass.
        """
        known = _FOR_ACTIVATIONS.get(cls)
        return cls(**config) if known is None else known.from_config(config)


@keras.saving.register_keras_serializable(package="keras_qat")
class LSQQuantizer(_ForBoth, LSQActivationQuantizer, LSQWeightQuantizer):
    """Deprecated: `LSQWeightQuantizer` and `LSQActivationQuantizer` in one.

    Args as of these two; it is both, and serves in either place.

    >>> issubclass(LSQQuantizer, LSQWeightQuantizer)
    True
    """

    old_name = "LSQQuantizer"
    instead = "LSQWeightQuantizer or LSQActivationQuantizer"


@keras.saving.register_keras_serializable(package="keras_qat")
class STEQuantizer(_ForBoth, STEActivationQuantizer, STEWeightQuantizer):
    """Deprecated: `STEWeightQuantizer` and `STEActivationQuantizer` in one.

    Args as of these two; it is both, and serves in either place.

    >>> issubclass(STEQuantizer, STEActivationQuantizer)
    True
    """

    old_name = "STEQuantizer"
    instead = "STEWeightQuantizer or STEActivationQuantizer"


def _read_as(kind: type[Quantizer], old: type[Quantizer]) -> type[Quantizer]:
    """`kind` under its old name until it has its variables.

    Keras looks for the weights of a layer in a file by the name of its class.
    """

    def load_own_variables(self: Quantizer, store: Any) -> None:
        kind.load_own_variables(self, store)
        object.__setattr__(self, "__class__", kind)

    return type(old.__name__, (kind,), {"load_own_variables": load_own_variables})


_FOR_ACTIVATIONS: dict[type[Quantizer], type[Quantizer]] = {
    LSQQuantizer: _read_as(LSQActivationQuantizer, LSQQuantizer),
    STEQuantizer: _read_as(STEActivationQuantizer, STEQuantizer),
}

_FOR_WEIGHTS = {
    "keras_qat>LSQQuantizer": _read_as(LSQWeightQuantizer, LSQQuantizer),
    "keras_qat>STEQuantizer": _read_as(STEWeightQuantizer, STEQuantizer),
}


def deserialize_weight_quantizer(
    config: dict[str, Any], custom_objects: dict[str, Any] | None = None
) -> WeightQuantizer:
    """The quantizer of a kernel from its serialized form; an old name stands for weights here.

    >>> from keras_qat.quantizers import Grid
    >>> config = keras.saving.serialize_keras_object(LSQWeightQuantizer(Grid(-2, 1)))
    >>> deserialize_weight_quantizer(config).grid
    Grid(qmin=-2, qmax=1, step=1)
    """
    with keras.saving.custom_object_scope(_FOR_WEIGHTS):
        found: WeightQuantizer = keras.saving.deserialize_keras_object(config, custom_objects)
    return found
