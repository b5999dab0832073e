"""One layer of TFMOT's model as a Keras 3 layer, and what TFMOT knows of its numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

WRAPPERS = ("QuantizeWrapper", "QuantizeWrapperV2")

_SCHEME = frozenset(
    {
        *("Default8BitQuantizeConfig", "Default8BitConvQuantizeConfig"),
        *("Default8BitConvTransposeQuantizeConfig", "Default8BitActivationQuantizeConfig"),
        *("Default8BitOutputQuantizeConfig", "NoOpQuantizeConfig"),
    }
)
_OWN_WEIGHTS = frozenset(
    {
        *("kernel", "depthwise_kernel", "bias", "gamma", "beta"),
        *("moving_mean", "moving_variance"),
    }
)
_FIRST = {
    "PruneLowMagnitude": "call tfmot.sparsity.keras.strip_pruning(model) before",
    "ClusterWeights": "call tfmot.clustering.keras.strip_clustering(model) before",
    "QuantizeAnnotate": "call tfmot.quantization.keras.quantize_apply(model) before",
}
_BEFORE = ("softmax", "sigmoid", "tanh", "gelu")
"""The activations whose input TFMOT quantizes."""


class UnreadableLayerError(ValueError):
    """Why one layer cannot be read."""


@dataclasses.dataclass(frozen=True, eq=False)
class ReadLayer:
    """A layer of TFMOT's model.

    Attributes:
        layer: the Keras 3 layer, not built.
        weights: its weights, in the order of Keras.
        kernel_range: the least and the largest weight of each channel that TFMOT notes, or of the
            kernel; `None` if TFMOT does not quantize it.
        ranges: layer name -> the range of a tensor, `(min, max)`. The name is the layer's, or the
            name that the layer's activation gets once the two are taken apart.
    """

    layer: Any
    weights: list[np.ndarray]
    kernel_range: tuple[np.ndarray, np.ndarray] | None
    ranges: dict[str, tuple[float, float]]


def read_layer(entry: dict[str, Any], stored: dict[str, np.ndarray]) -> ReadLayer:
    """The layer of a configuration's entry, without its wrapper.

    Raises:
        UnreadableLayerError: no Keras 3 layer equals it, or it is quantized otherwise than by
            TFMOT's 8-bit scheme.
    """
    kind, config = entry["class_name"], entry["config"]
    if kind not in WRAPPERS:
        return ReadLayer(_keras3_layer(kind, config), list(stored.values()), None, {})
    scheme = config["quantize_config"]["class_name"]
    if scheme not in _SCHEME:
        raise UnreadableLayerError(
            f"{config['layer']['config']['name']!r}: its {scheme} is not of TFMOT's 8-bit scheme"
        )
    inner = config["layer"]
    layer = _keras3_layer(inner["class_name"], inner["config"])
    weights = [value for name, value in stored.items() if name in _OWN_WEIGHTS]
    kernel = next((name for name in stored if name.endswith("kernel_min")), None)
    kernel_range = None
    if kernel is not None:
        kernel_range = stored[kernel], stored[kernel.removesuffix("_min") + "_max"]
    return ReadLayer(layer, weights, kernel_range, _ranges(layer, stored))


def _ranges(layer: Any, stored: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    found = {
        place: (float(stored[f"{place}_min"]), float(stored[f"{place}_max"]))
        for place in ("pre_activation", "post_activation", "output")
        if f"{place}_min" in stored
    }
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    ranges = {}
    before = activation in _BEFORE and not isinstance(layer, keras.layers.Activation)
    if "pre_activation" in found and before:
        ranges[layer.name] = found["pre_activation"]
    if "post_activation" in found:
        name = f"{layer.name}_{activation}" if before else layer.name
        ranges[name] = found["post_activation"]
    if "output" in found:
        ranges[layer.name] = found["output"]
    return ranges


def _keras3_layer(kind: str, config: dict[str, Any]) -> Any:
    """The Keras 3 layer of a class name and a configuration of Keras 2."""
    name = config.get("name", kind)
    if kind in _FIRST:
        raise UnreadableLayerError(f"{name!r} ({kind}): {_FIRST[kind]}")
    made = getattr(keras.layers, kind, None)
    if made is None or kind == "Lambda":
        raise UnreadableLayerError(f"{name!r} ({kind}): no layer of Keras 3 is known to equal it")
    try:
        return made.from_config(_keras3_config(config))
    except (TypeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise UnreadableLayerError(
            f"{name!r} ({kind}): Keras 3 does not make it: {first}"
        ) from error


def _keras3_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what Keras 3 does not know, and without initializers."""
    kept = {key: value for key, value in config.items() if not key.endswith("_initializer")}
    kept.pop("batch_input_shape", None)
    if "depth_multiplier" in kept:
        kept.pop("groups", None)  # always 1 in Keras 2
    dtype = kept.pop("dtype", "float32")
    if dtype != "float32":
        raise ValueError(f"its dtype is {dtype!r}, and only float32 can be read")
    if isinstance(kept.get("axis"), list) and len(kept["axis"]) == 1:
        (kept["axis"],) = kept["axis"]
    if "activation" in kept:
        kept["activation"] = _activation(kept["activation"])
    return kept


def _activation(stored: Any) -> Any:
    """The name of an activation, which TFMOT may have wrapped."""
    while isinstance(stored, dict) and stored["class_name"] == "QuantizeAwareActivation":
        stored = stored["config"]["activation"]
    if isinstance(stored, dict) and stored["class_name"] == "NoOpActivation":
        return "linear"
    return stored
