"""Configurations: which quantizers, at how many bits."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import keras

from keras_qat.quantizers import (
    GDNSQActivationQuantizer,
    GDNSQWeightQuantizer,
    Grid,
    LSQQuantizer,
    Quantizer,
    STEQuantizer,
)
from keras_qat.quantizers.fake_quantize import check_bits
from keras_qat.quantizers.gdnsq import check_gdnsq_options


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationConfig(abc.ABC):
    """What `quantize` needs to know; a subclass chooses the quantizers.

    Args:
        weight_bits: bits of a weight, 1 to 8; 1 bit is {-1, +1} times the scale.
        activation_bits: bits of an activation, 1 to 8.
        per_channel: one weight scale for each output channel, else one for each layer.
        first_and_last_bits: bits of the weights of the first and the last weight layers, and of
            the model's outputs.
        input_bits: bits of the model's inputs.
        add_bits: bits of a tensor that enters an Add.

    Raises:
        ValueError: a width that is not a whole number from 1 to 8.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    per_channel: bool = True
    first_and_last_bits: int = 8
    input_bits: int = 8
    add_bits: int = 8

    def __post_init__(self) -> None:
        for field in dataclasses.fields(QuantizationConfig):
            if field.name.endswith("_bits"):
                bits = getattr(self, field.name)
                check_bits(bits, field.name)
                object.__setattr__(self, field.name, int(bits))  # NumPy's integers are no JSON

    @abc.abstractmethod
    def weight_quantizer(self, bits: int) -> Quantizer:
        """The quantizer of a kernel with its output channels on the last axis."""

    @abc.abstractmethod
    def activation_quantizer(self, bits: int, signed: bool, name: str) -> Quantizer:
        """The quantizer of an activation."""

    def input_quantizer(self, bits: int, signed: bool, name: str) -> Quantizer:
        """The quantizer of a model input: a fixed grid that an application can rely on."""
        return STEQuantizer(Grid.for_activations(bits, signed), name=name)

    def get_config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizationConfig:
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class STEConfig(QuantizationConfig):
    """Calibrated scales that stay; the weights learn through the straight-through estimator.

    >>> STEConfig(weight_bits=4).activation_bits
    8
    """

    def weight_quantizer(self, bits: int) -> Quantizer:
        return STEQuantizer(
            Grid.for_weights(bits), per_channel=self.per_channel, name="weight_quantizer"
        )

    def activation_quantizer(self, bits: int, signed: bool, name: str) -> Quantizer:
        return STEQuantizer(Grid.for_activations(bits, signed), name=name)


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LSQConfig(QuantizationConfig):
    """Scales learned with the weights (LSQ, arXiv 1902.08153).

    >>> LSQConfig(weight_bits=4, activation_bits=4).add_bits
    8
    """

    def weight_quantizer(self, bits: int) -> Quantizer:
        return LSQQuantizer(
            Grid.for_weights(bits), per_channel=self.per_channel, name="weight_quantizer"
        )

    def activation_quantizer(self, bits: int, signed: bool, name: str) -> Quantizer:
        return LSQQuantizer(Grid.for_activations(bits, signed), name=name)


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GDNSQConfig(QuantizationConfig):
    """Bit widths learned with the weights (GDNSQ, arXiv 2508.14004).

    All widths are targets: calibration starts at `start_bits`, and training with a penalty on the
    widths brings them down. A model that meets its targets deploys.

    Args:
        estimator: of the gradient through the rounding of weights: "ste", "ewgs", "aewgs" or
            "lsq"; activations use "ste", as published.
        noise_gradient: "head" for the published random term in the gradient of steps, or "none".
        offset: "snapped", or "free" for the published grids, which do not deploy.
        start_bits: the bits to start at, 8 to 16.

    Raises:
        ValueError: also for an option that has no such value.

    >>> GDNSQConfig(weight_bits=2, activation_bits=2).start_bits
    10
    """

    estimator: str = "ste"
    noise_gradient: str = "head"
    offset: str = "snapped"
    start_bits: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_gdnsq_options(self.estimator, self.noise_gradient, self.offset, self.start_bits)
        object.__setattr__(self, "start_bits", int(self.start_bits))

    def weight_quantizer(self, bits: int) -> Quantizer:
        return GDNSQWeightQuantizer(
            bits,
            per_channel=self.per_channel,
            estimator=self.estimator,
            name="weight_quantizer",
            **self._options(),
        )

    def activation_quantizer(self, bits: int, signed: bool, name: str) -> Quantizer:
        return GDNSQActivationQuantizer(bits, signed, name=name, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "noise_gradient": self.noise_gradient,
            "offset": self.offset,
            "start_bits": self.start_bits,
        }


CONFIGS: dict[str, type[QuantizationConfig]] = {
    "gdnsq": GDNSQConfig,
    "lsq": LSQConfig,
    "ste": STEConfig,
}


def get(identifier: QuantizationConfig | str | dict[str, Any] | None) -> QuantizationConfig:
    """A configuration from itself, its name, its serialized form, or `None` (8-bit LSQ).

    >>> get("ste")
    STEConfig(weight_bits=8, activation_bits=8, per_channel=True, first_and_last_bits=8, \
input_bits=8, add_bits=8)
    """
    if identifier is None:
        return LSQConfig()
    if isinstance(identifier, QuantizationConfig):
        return identifier
    if isinstance(identifier, str) and identifier in CONFIGS:
        return CONFIGS[identifier]()
    if isinstance(identifier, dict):
        config = keras.saving.deserialize_keras_object(identifier)
        if isinstance(config, QuantizationConfig):
            return config
    known = ", ".join(map(repr, CONFIGS))
    raise ValueError(
        f"A quantization config is a QuantizationConfig object, one of {known}, or a serialized "
        f"config. Received: {identifier!r}"
    )
