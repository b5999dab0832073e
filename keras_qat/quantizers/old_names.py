"""The quantizers of earlier releases, which old files name and users may still make.

`LSQQuantizer` and `STEQuantizer` quantized both weights and activations. In a file, the place of
such a name decides: the quantizer of a wrapper's kernel (`deserialize_weight_quantizer`) becomes
the quantizer of weights, any other the quantizer of activations.
`ActivationQuantizer.from_config` reads options that activations no longer have.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import h5py
import keras

from keras_qat.deprecation import warn_deprecated
from keras_qat.quantizers.lsq import LSQActivationQuantizer, LSQWeightQuantizer
from keras_qat.quantizers.quantizer import Quantizer
from keras_qat.quantizers.ste import STEActivationQuantizer, STEWeightQuantizer
from keras_qat.quantizers.weight_quantizer import WeightQuantizer

_PLACES = {"lsq_quantizer", "ste_quantizer"}
"""The names under which files hold the variables of the first layer of each old class."""


class _ForBoth(Quantizer):
    """Mixin for a deprecated class, which quantizes weights or activations.

    Making one warns. `from_config` of an old file yields the quantizer of activations that
    replaced it. A subclass that a user wrote stays what it is.

    Attributes:
        old_name: the name of the deprecated class.
        instead: what to write instead, for the warning.
    """

    old_name: ClassVar[str]
    instead: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any):
        warn_deprecated(f"keras_qat.{self.old_name}", self.instead)
        super().__init__(*args, **kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Quantizer:
        """The quantizer of activations that an old file means, or a subclass that a user wrote.

        Wrappers read the quantizers of their kernels themselves.
        """
        known = _FOR_ACTIVATIONS.get(cls)
        return cls(**config) if known is None else known.from_config(config)


@keras.saving.register_keras_serializable(package="keras_qat")
class LSQQuantizer(_ForBoth, LSQActivationQuantizer, LSQWeightQuantizer):  # type: ignore[misc]  # two `call`s: the first is used
    """Deprecated: `LSQWeightQuantizer` and `LSQActivationQuantizer` in one.

    It has the arguments of both, and quantizes weights or activations.

    >>> issubclass(LSQQuantizer, LSQWeightQuantizer)
    True
    """

    old_name = "LSQQuantizer"
    instead = "LSQWeightQuantizer or LSQActivationQuantizer"


@keras.saving.register_keras_serializable(package="keras_qat")
class STEQuantizer(_ForBoth, STEActivationQuantizer, STEWeightQuantizer):  # type: ignore[misc]  # the first is used
    """Deprecated: `STEWeightQuantizer` and `STEActivationQuantizer` in one.

    It has the arguments of both, and quantizes weights or activations.

    >>> issubclass(STEQuantizer, STEActivationQuantizer)
    True
    """

    old_name = "STEQuantizer"
    instead = "STEWeightQuantizer or STEActivationQuantizer"


def _read_as(kind: type[Quantizer], old: type[Quantizer]) -> type[Quantizer]:
    """A class that reads its variables under the old name, and then becomes `kind`.

    Keras looks up the variables of a layer in a file by the name of its class.
    """

    def load_own_variables(self: Quantizer, store: Any) -> None:
        kind.load_own_variables(self, store)
        _become(self, kind)

    return type(old.__name__, (kind,), {"load_own_variables": load_own_variables})


_FOR_ACTIVATIONS: dict[type[Quantizer], type[Quantizer]] = {
    LSQQuantizer: _read_as(LSQActivationQuantizer, LSQQuantizer),
    STEQuantizer: _read_as(STEActivationQuantizer, STEQuantizer),
}

_FOR_WEIGHTS = {
    "keras_qat>LSQQuantizer": _read_as(LSQWeightQuantizer, LSQQuantizer),
    "keras_qat>STEQuantizer": _read_as(STEWeightQuantizer, STEQuantizer),
}


def _become(quantizer: Quantizer, kind: type[Quantizer]) -> None:
    """Changes the class of a quantizer, without the `__setattr__` of Keras."""
    object.__setattr__(quantizer, "__class__", kind)


@contextlib.contextmanager
def reading_old_names(quantizers: Iterable[Quantizer], path: Any) -> Iterator[None]:
    """A context in which Keras finds the variables of quantizers in a file of any release.

    Args:
        quantizers: the quantizers of a model that loads its weights in this context.
        path: a `.weights.h5` or a `.keras` file.
    """
    readers = {kind.__base__: kind for kind in (*_FOR_ACTIVATIONS.values(), *_FOR_WEIGHTS.values())}
    renamed = [each for each in quantizers if type(each) in readers] if _is_old(path) else []
    kinds = [type(each) for each in renamed]
    for quantizer, kind in zip(renamed, kinds, strict=True):
        _become(quantizer, readers[kind])
    try:
        yield
    finally:
        for quantizer, kind in zip(renamed, kinds, strict=True):
            _become(quantizer, kind)


def _is_old(path: Any) -> bool:
    """Whether a file holds the variables of activation quantizers under an old name."""
    path = pathlib.Path(path)
    if not path.is_file():
        return False  # Keras raises the error
    source: Any = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read("model.weights.h5"))
    elif not h5py.is_hdf5(path):
        return False
    with h5py.File(source) as file:
        return not _PLACES.isdisjoint(file.get("layers", ()))


def deserialize_weight_quantizer(
    config: dict[str, Any], custom_objects: dict[str, Any] | None = None
) -> WeightQuantizer:
    """The quantizer of a kernel from its serialized form, also under an old name.

    >>> from keras_qat.quantizers import Grid
    >>> config = keras.saving.serialize_keras_object(LSQWeightQuantizer(Grid(-2, 1)))
    >>> deserialize_weight_quantizer(config).grid
    Grid(qmin=-2, qmax=1, step=1)
    """
    with keras.saving.custom_object_scope(_FOR_WEIGHTS):
        found: WeightQuantizer = keras.saving.deserialize_keras_object(config, custom_objects)
    return found
