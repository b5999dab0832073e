"""In whose arithmetic a quantized model infers."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping
from typing import Any

import keras

from keras_qat.integer.storage_sizes import PACKED_BITS
from keras_qat.keras_calls import outer_layer

_OPTION = "computes_as"
_CALLERS: weakref.WeakKeyDictionary[keras.layers.Layer, weakref.WeakSet[keras.Model]] = (
    weakref.WeakKeyDictionary()
)
"""The models that called each layer, and may have traced it. On JAX, Keras does not tell."""


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How a target's kernels round.

    Attributes:
        name: the name, which layers save.
        target: the target.
        fixed_point: whether kernels rescale accumulators in fixed point, with two roundings. If
            not, they multiply in float32 and round once.
        arm64: whether MUL, MEAN and SOFTMAX round as on arm64.
        weight_bits: the fewest bits in which weights are stored, if they fit. Fewer bits leave less
            room for headroom.
    """

    name: str
    target: str
    fixed_point: bool
    weight_bits: int = 8
    arm64: bool = False

    @property
    def weight_storage(self) -> str:
        """The storage of weights, as `compute_as` takes it."""
        return "auto" if self.weight_bits == 8 else f"int{self.weight_bits}"


ARITHMETICS = {
    each.name: each
    for each in (
        Arithmetic("litert", "litert", fixed_point=False),
        Arithmetic("litert-int4", "litert", fixed_point=False, weight_bits=4),
        Arithmetic("litert-int2", "litert", fixed_point=False, weight_bits=2),
        Arithmetic("xnnpack-arm64", "xnnpack-arm64", fixed_point=False, arm64=True),
        Arithmetic("xnnpack-arm64-int4", "xnnpack-arm64", False, weight_bits=4, arm64=True),
        Arithmetic("xnnpack-arm64-int2", "xnnpack-arm64", False, weight_bits=2, arm64=True),
        Arithmetic("tflm", "tflm", fixed_point=True),
        Arithmetic("tflm-int4", "tflm", fixed_point=True, weight_bits=4),
    )
}
DEFAULT = ARITHMETICS["litert"]
_ALIASES = {"xnnpack": "litert", "xnnpack-x86": "litert", "ethos-u": "tflm"}


def arithmetic_of(target: Any, weight_storage: Any = "auto") -> Arithmetic:
    """The arithmetic of a target with a storage of weights.

    >>> arithmetic_of("tflm", "int4").weight_bits
    4

    Raises:
        ValueError: no such target, or a storage that the target does not load.
    """
    targets = sorted({each.target for each in ARITHMETICS.values()} | set(_ALIASES))
    if target not in targets:
        raise ValueError(f"The target must be one of {targets}. Received: {target!r}")
    target = _ALIASES.get(target, target)
    last = "lut" if target == "tflm" else "int2"
    storages = ("auto", "int8", "int4", last)
    if weight_storage not in storages:
        raise ValueError(
            f"The weight_storage for target {target!r} must be one of {storages}. Received: "
            f"{weight_storage!r}"
        )
    narrow = weight_storage in PACKED_BITS
    return ARITHMETICS[f"{target}-{weight_storage}" if narrow else target]


class RoundsAsTarget(keras.layers.Layer):
    """Base of layers that infer as a target does. The choice is saved with the layer.

    Attributes:
        arithmetic: the arithmetic of inference, by default LiteRT's.
    """

    def __init__(self, *args: Any, computes_as: str = DEFAULT.name, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.arithmetic = ARITHMETICS[computes_as]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        caller = outer_layer(self)
        if isinstance(caller, keras.Model):
            _CALLERS.setdefault(self, weakref.WeakSet()).add(caller)
        return super().__call__(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        chosen = {} if self.arithmetic is DEFAULT else {_OPTION: self.arithmetic.name}
        return {**super().get_config(), **chosen}


def set_arithmetic(chosen: Mapping[RoundsAsTarget, Arithmetic]) -> list[RoundsAsTarget]:
    """Lets layers infer so from now on, in every model that calls them.

    Graphs that Keras traced for such models are traced anew.

    Returns:
        The layers that inferred otherwise before.
    """
    changed = [layer for layer, each in chosen.items() if layer.arithmetic is not each]
    for layer in changed:
        layer.arithmetic = chosen[layer]
        for model in _CALLERS.get(layer, ()):
            forget_traces(model)
    return changed


def forget_traces(model: Any) -> None:
    """Lets Keras trace evaluation and prediction anew. Training, which may be running, stays."""
    model.test_function = model.predict_function = None
