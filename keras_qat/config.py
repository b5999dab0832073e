"""Configurations: which quantizers a model gets, and with how many bits."""

from __future__ import annotations

import abc
import dataclasses
import math
import numbers
from typing import Any

import keras
import numpy as np

from keras_qat import estimators
from keras_qat.quantizers import (
    ActivationQuantizer,
    DoReFaQuantizer,
    GDNSQActivationQuantizer,
    GDNSQWeightQuantizer,
    Grid,
    LSQActivationQuantizer,
    LSQWeightQuantizer,
    PACTQuantizer,
    STEActivationQuantizer,
    STEWeightQuantizer,
    WaveQWeightQuantizer,
    WeightQuantizer,
)
from keras_qat.quantizers.gdnsq.quantizer import check_gdnsq_options
from keras_qat.quantizers.grid import MAX_BITS, check_bits
from keras_qat.quantizers.preserved import PRESERVED
from keras_qat.quantizers.replacement import check_replacement


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationConfig(abc.ABC):
    """The options of `quantize`. A subclass chooses the quantizers.

    Args:
        weight_bits: bits of a weight, 1 to 8. With 1 bit, weights are {-1, +1} times the scale.
        activation_bits: bits of an activation, 1 to 8; or `None`: only weights are on grids. No
            activation, no input, no tensor at an Add and no output of the model is rounded then,
            so `input_bits`, `add_bits` and `per_tensor_dense` have no effect, and
            `first_and_last_bits` is for weights alone. Such a model exports for LiteRT only, and
            computes there in float32.
        per_channel: one weight scale for each output channel, else one for each layer. A file has
            a scale for each channel in both cases.
        per_tensor_dense: whether a Dense layer has one weight scale, whatever `per_channel` says,
            and in a file for TensorFlow Lite Micro too. Its kernel then keeps 8 bytes less of RAM
            for each unit, and a lookup table is one for all units. A BatchNormalization that alone
            reads such a layer is folded into its kernel before training, and is gone.
        first_and_last_bits: bits of the weights of the first and the last weight layers, and of
            the model's outputs.
        input_bits: bits of the model's inputs, and of the outputs of layers in float.
        add_bits: bits of a tensor that enters an Add, a Subtract, a Multiply or a layer in float.
        estimator: estimator of the gradient through rounding, a `keras_qat.estimators.Estimator`
            or its name.
        activation_estimator: estimator for activations; by default `estimator`.
        replacement: `None` quantizes all elements from the first batch on. "random", "persistent"
            and "error_first" name how a `keras_qat.callbacks.PEGESchedule` chooses the elements
            that it replaces, batch by batch, by their quantized values.
        order: the order in which replacement reaches the tensors. "global" replaces the same share
            of all of them. "forward" replaces one tensor after the other, from the input on, the
            weights of a layer before its activations. "reverse" begins at the output.
        pull_at_one_bit: whether the estimator "pege" also pulls tensors of one bit. Such a tensor
            has one threshold: a pull to the nearest code pushes values away from the threshold and
            freezes signs. So by default tensors of one bit are replaced and not pulled.
        discretization_loss: factor of `mean(((x - x_hat) / R)**2)` in the training loss, for every
            quantized tensor, with `R` the range of its grid. It pulls values to their codes by a
            loss of its own, where the estimator "pege" changes the gradient.
        code_regularization: strength of WaveQ's sinusoidal regularizer, which pulls weights to
            their codes. It is added to the loss for every layer; 0 leaves it out.
        preserve_sparsity: whether weights that are zero at the start stay zero. Weights of
            `"dorefa"`, `"gdnsq"` and `"waveq"` then have `2**bits - 1` levels, and zero is one.
        preserve_clusters: whether weights of a channel that are equal at the start stay equal. Each
            moves by the mean gradient of its cluster.

    Raises:
        ValueError: a bit width that is not a whole number from 1 to 8, an unknown name, a flag that
            is not a bool, or a strength that is not a finite number of 0 or more.
    """

    weight_bits: int = 8
    activation_bits: int | None = 8
    per_channel: bool = True
    per_tensor_dense: bool = False
    first_and_last_bits: int = 8
    input_bits: int = 8
    add_bits: int = 8
    estimator: Any = "ste"
    activation_estimator: Any = None
    replacement: str | None = None
    order: str = "global"
    pull_at_one_bit: bool = False
    discretization_loss: float = 0.0
    code_regularization: float = 0.0
    preserve_sparsity: bool = False
    preserve_clusters: bool = False

    def __post_init__(self) -> None:
        check_replacement(self.replacement, self.order)
        for flag in ("per_channel", "per_tensor_dense", "pull_at_one_bit", *PRESERVED):
            self._check_flag(flag)
        self._check_strength("code_regularization")
        self._check_strength("discretization_loss")
        object.__setattr__(self, "estimator", self._checked_estimator(self.estimator))
        if self.activation_estimator is not None:
            other = self._checked_estimator(self.activation_estimator)
            object.__setattr__(self, "activation_estimator", other)
        for field in dataclasses.fields(QuantizationConfig):
            if field.name.endswith("_bits"):
                bits = getattr(self, field.name)
                if bits is None and field.name == "activation_bits":
                    continue
                check_bits(bits, field.name)
                object.__setattr__(self, field.name, int(bits))  # JSON has no NumPy integers

    def _check_flag(self, field: str) -> None:
        flag = getattr(self, field)
        if not isinstance(flag, bool | np.bool_):
            raise ValueError(f"{field} must be True or False. Received: {flag!r}")

    def _check_strength(self, field: str) -> None:
        strength = getattr(self, field)
        if not isinstance(strength, numbers.Real) or not 0.0 <= float(strength) < math.inf:
            raise ValueError(f"{field} must be a finite number, 0 or more. Received: {strength!r}")

    def _checked_estimator(self, identifier: Any) -> Any:
        return estimators.get(identifier)

    def _for_weights(self, bits: int) -> dict[str, Any]:
        """The arguments that quantizers of weights have in common."""
        return {
            "estimator": self._estimator_at(bits, self.estimator),
            "replacement": self.replacement,
            "replacement_order": self.order,
            "discretization_loss": self.discretization_loss,
            "per_channel": self.per_channel,
            "code_regularization": self.code_regularization,
            **{flag: bool(getattr(self, flag)) for flag in PRESERVED},
            "name": "weight_quantizer",
        }

    def _for_activations(self, bits: int, name: str) -> dict[str, Any]:
        """The arguments that quantizers of activations have in common."""
        estimator = self.activation_estimator
        estimator = self.estimator if estimator is None else estimator
        return {
            "estimator": self._estimator_at(bits, estimator),
            "replacement": self.replacement,
            "replacement_order": self.order,
            "discretization_loss": self.discretization_loss,
            "name": name,
        }

    def _estimator_at(self, bits: int, estimator: Any) -> Any:
        """The estimator of a tensor with these bits."""
        pulls = getattr(estimator, "name", estimator) == "pege"
        spared = pulls and bits == 1 and not self.pull_at_one_bit
        return estimators.get("ste") if spared else estimator

    @property
    def rounds_activations(self) -> bool:
        """Whether activations are on grids; if not, layers compute in float32.

        >>> LSQConfig(weight_bits=1, activation_bits=None).rounds_activations
        False
        """
        return self.activation_bits is not None

    @abc.abstractmethod
    def weight_quantizer(self, bits: int) -> WeightQuantizer:
        """The quantizer of a kernel whose last axis counts the output channels."""

    @abc.abstractmethod
    def activation_quantizer(self, bits: int, signed: bool, name: str) -> ActivationQuantizer:
        """The quantizer of an activation."""

    def input_quantizer(self, bits: int, signed: bool, name: str) -> ActivationQuantizer:
        """The quantizer of a model input, whose grid stays fixed: applications can rely on it."""
        return STEActivationQuantizer(Grid.for_activations(bits, signed), name=name)

    def get_config(self) -> dict[str, Any]:
        """All fields, as Keras saves them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizationConfig:
        """The config with the fields that `get_config` returned."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class STEConfig(QuantizationConfig):
    """Fixed scales from calibration. The weights train with the straight-through estimator.

    >>> STEConfig(weight_bits=4).activation_bits
    8
    """

    def weight_quantizer(self, bits: int) -> WeightQuantizer:
        return STEWeightQuantizer(Grid.for_weights(bits), **self._for_weights(bits))

    def activation_quantizer(self, bits: int, signed: bool, name: str) -> ActivationQuantizer:
        return STEActivationQuantizer(
            Grid.for_activations(bits, signed), **self._for_activations(bits, name)
        )


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LSQConfig(QuantizationConfig):
    """Scales learned with the weights (LSQ, arXiv 1902.08153).

    >>> LSQConfig(weight_bits=4, activation_bits=4).add_bits
    8
    """

    def weight_quantizer(self, bits: int) -> WeightQuantizer:
        return LSQWeightQuantizer(Grid.for_weights(bits), **self._for_weights(bits))

    def activation_quantizer(self, bits: int, signed: bool, name: str) -> ActivationQuantizer:
        return LSQActivationQuantizer(
            Grid.for_activations(bits, signed), **self._for_activations(bits, name)
        )


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PEGEConfig(LSQConfig):
    """LSQ's grids, trained by PEGE: progressive replacement and a pull to the grid.

    Train with `keras_qat.callbacks.PEGESchedule`. PEGE works on any grid: any other config with
    `estimator="pege", replacement="random"` is also PEGE.

    Source: the abstract of PEGE (arXiv 2509.00097). Details that it leaves open are our own reading
    (`keras_qat.estimators.pege`, `keras_qat.quantizers.replacement`).

    >>> PEGEConfig(weight_bits=2, activation_bits=2).replacement
    'random'
    """

    estimator: Any = "pege"
    replacement: str | None = "random"


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DoReFaConfig(QuantizationConfig):
    """DoReFa's weights (arXiv 1606.06160) and PACT's activations (arXiv 1805.06085).

    >>> DoReFaConfig(weight_bits=2, activation_bits=2).per_channel
    True
    """

    def weight_quantizer(self, bits: int) -> WeightQuantizer:
        return DoReFaQuantizer(bits, **self._for_weights(bits))

    def activation_quantizer(self, bits: int, signed: bool, name: str) -> ActivationQuantizer:
        return PACTQuantizer(
            Grid.for_activations(bits, signed), **self._for_activations(bits, name)
        )


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveQConfig(DoReFaConfig):
    """DoReFa's levels at a number of bits that each layer learns (WaveQ, arXiv 2003.00146).

    A layer starts at its bits of weights and deploys at the bits it has learned. A layer of 8 bits
    keeps them, by default the first and the last one. No activation learns its bits.

    Args:
        code_regularization: the strength of the sine whose period is learned.
        width_regularization: the price of a bit of a layer's weights in the training loss. It
            has to outweigh about a third of `code_regularization / 2**bits` to make a width fall.

    Raises:
        ValueError: also for a price that is not a finite number of 0 or more.

    >>> WaveQConfig().weight_bits
    7
    """

    weight_bits: int = 7
    code_regularization: float = 0.1
    width_regularization: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_strength("width_regularization")

    def weight_quantizer(self, bits: int) -> WeightQuantizer:
        if bits == MAX_BITS:
            return super().weight_quantizer(bits)
        return WaveQWeightQuantizer(bits, self.width_regularization, **self._for_weights(bits))


@keras.saving.register_keras_serializable(package="keras_qat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GDNSQConfig(QuantizationConfig):
    """Bit widths learned with the weights (GDNSQ, arXiv 2508.14004).

    All bit widths of the config are targets. Calibration starts at `start_bits`, and training with
    a penalty brings the bit widths down. A model that meets its targets deploys.

    Args:
        estimator: as in every config, or "lsq": straight through, with the noise itself instead of
            random signs in the gradient of steps.
        noise_gradient: "head" for the published random term in the gradient of steps, or "none".
        offset: "snapped", or "free" for the published grids, which do not deploy.
        start_bits: bits at the start, 1 to 16; a tensor with a larger target starts at its target.
        start_range: "min_max", or "least_error" for the range of activations that rounding and
            clipping to `start_bits` change least. The difference shows at few start bits.

    Raises:
        ValueError: also for an unknown value of one of these options.

    >>> GDNSQConfig(weight_bits=2, activation_bits=2).start_bits
    10
    """

    noise_gradient: str = "head"
    offset: str = "snapped"
    start_bits: int = 10
    start_range: str = "min_max"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_gdnsq_options(
            self.estimator, self.noise_gradient, self.offset, self.start_bits, self.start_range
        )
        object.__setattr__(self, "start_bits", int(self.start_bits))

    def _checked_estimator(self, identifier: Any) -> Any:
        return identifier if identifier == "lsq" else super()._checked_estimator(identifier)

    def weight_quantizer(self, bits: int) -> WeightQuantizer:
        return GDNSQWeightQuantizer(bits, **self._for_weights(bits), **self._options())

    def activation_quantizer(self, bits: int, signed: bool, name: str) -> ActivationQuantizer:
        return GDNSQActivationQuantizer(
            bits, signed, **self._for_activations(bits, name), **self._options()
        )

    def _options(self) -> dict[str, Any]:
        return {
            "noise_gradient": self.noise_gradient,
            "offset": self.offset,
            "start_bits": self.start_bits,
            "start_range": self.start_range,
        }


CONFIGS: dict[str, type[QuantizationConfig]] = {
    "dorefa": DoReFaConfig,
    "gdnsq": GDNSQConfig,
    "lsq": LSQConfig,
    "pege": PEGEConfig,
    "ste": STEConfig,
    "waveq": WaveQConfig,
}


def get(identifier: QuantizationConfig | str | dict[str, Any] | None) -> QuantizationConfig:
    """A configuration from itself, its name, its serialized form, or `None` (8-bit LSQ).

    Raises:
        ValueError: anything else.

    >>> get("ste") == STEConfig()
    True
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
        f"config must be a QuantizationConfig, one of {known}, or a serialized config. "
        f"Received: {identifier!r}"
    )
