"""`GDNSQQuantizer`: the part that GDNSQ's two quantizers share."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat import estimators
from keras_qat.errors import DIVERGED, LoweringError
from keras_qat.integer.qparams import QuantParams
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.gdnsq.integer_grids import NOT_HELD
from keras_qat.quantizers.gdnsq.noise_model import NOISE_GRADIENTS, NoiseModel
from keras_qat.quantizers.gdnsq.noise_signs import RankOneSigns, random_noise_sign
from keras_qat.quantizers.gdnsq.step_table import LARGEST_EXPONENT, learned_step, snapped_log
from keras_qat.quantizers.grid import Grid, check_bits
from keras_qat.quantizers.power_of_two import power_of_two
from keras_qat.quantizers.quantizer import Quantizer
from keras_qat.tensors import Tensor

OFFSETS = ("snapped", "free")
START_RANGES = ("min_max", "least_error")
_START_BITS = range(1, 17)
HOW_TO_MEET = "train on with keras_qat.callbacks.GDNSQSchedule until it is met."


def check_gdnsq_options(
    estimator: Any,
    noise_gradient: str,
    offset: str,
    start_bits: int,
    start_range: str = "min_max",
) -> None:
    """Raises a `ValueError` that names the first option with a value that is not allowed.

    >>> check_gdnsq_options("ste", "head", "snapped", 10)
    """
    if NoiseModel.of(estimator).estimator.trained:
        raise ValueError(
            "GDNSQ trains steps and ranges, and no option of the estimator. Received: "
            f"{estimator!r}. Leave out 'learned', or take keras_qat.LSQConfig."
        )
    for name, value, choices in (
        ("noise_gradient", noise_gradient, NOISE_GRADIENTS),
        ("offset", offset, OFFSETS),
        ("start_range", start_range, START_RANGES),
    ):
        if value not in choices:
            raise ValueError(f"The {name} must be one of {choices}. Received: {value!r}")
    if isinstance(start_bits, bool) or start_bits not in _START_BITS:
        raise ValueError(
            f"The start_bits must be a whole number from 1 to 16. Received: {start_bits!r}"
        )


class GDNSQQuantizer(Quantizer):
    """Mixin for GDNSQ's quantizers: the step is trained, and with it the number of levels.

    A penalty on `bit_width` (`keras_qat.training.losses`) widens the steps until the bit width
    meets `target_bits`.

    Args:
        target_bits: the target width, 1 to 8.
        estimator: the rule for the gradient through rounding, an `Estimator` or its name. "lsq" is
            straight through, with the noise itself instead of random signs.
        noise_gradient: "head" adds the published random term to the gradient of the step, with
            signs drawn in every training call. "none" leaves it out and draws nothing.
        offset: "snapped" for a grid that integers state exactly, "free" for the published grid,
            which integers cannot state and which is not deployable.
        start_bits: the width at the start of training, 1 to 16. A target above it is the start.
            From the target itself, nothing is narrowed: the levels are fixed from the first batch.
        start_range: how calibration chooses the first range of activations. "min_max" takes the
            smallest and the largest value, as published. "least_error" takes the range with the
            least squared error, as for fixed bit widths. Weights start at their own range.
        replacement, seed: see `Quantizer`. The seed is also the seed of the signs.
    """

    def __init__(
        self,
        grid: Grid,
        target_bits: int,
        estimator: estimators.Estimator | str | dict[str, Any] = "ste",
        noise_gradient: str = "head",
        offset: str = "snapped",
        start_bits: int = 10,
        start_range: str = "min_max",
        **kwargs: Any,
    ):
        check_gdnsq_options(estimator, noise_gradient, offset, start_bits, start_range)
        self._noise = NoiseModel.of(estimator, noise_gradient)
        super().__init__(grid, estimator=self._noise.estimator, **kwargs)
        self.target_bits = int(target_bits)
        self.noise_gradient = noise_gradient
        self.offset_kind = offset
        self.start_bits = int(start_bits)
        self.start_range = start_range
        if self._noise.draws:
            self._draw_from_seed()

    def _build_scale(self, input_shape: tuple[int | None, ...]) -> None:
        self.rate = self.add_weight(
            name="rate", shape=(), initializer="ones", trainable=False, autocast=False
        )
        self._logarithms = self._add_logarithms(input_shape)
        self.held_levels = self.add_weight(
            name="held_levels",
            shape=(),
            initializer=keras.initializers.Constant(NOT_HELD),
            trainable=False,
            autocast=False,
        )

    @property
    def learns_width(self) -> bool:
        return True

    @property
    def bits(self) -> int:
        return self.target_bits

    @property
    def first_bits(self) -> int:
        """The width after calibration: `start_bits`, or the target if it is larger."""
        return max(self.start_bits, self.target_bits)

    @property
    def deployable(self) -> bool:
        return self.offset_kind == "snapped"

    @property
    def log_scale(self) -> Tensor:
        """Base-2 logarithm of the step: `rate` times its variable; `()` or `(channels,)`."""
        raise NotImplementedError

    @property
    def step(self) -> Tensor:
        """The learned step `s`, of shape `()` or `(channels,)`; without gradient if snapped."""
        return (learned_step if self.deployable else power_of_two)(self.log_scale)

    def set_rate(self, rate: float) -> None:
        """Makes the logarithms move `rate` times as far for the same update of an optimizer.

        The variable then holds the logarithms divided by `rate`. The grid does not change.

        Args:
            rate: a power of two, so that the division is exact.

        Raises:
            ValueError: the rate is not a positive power of two.
        """
        if math.frexp(rate)[0] != 0.5:
            raise ValueError(f"The rate must be a positive power of two. Received: {rate!r}")
        values = ops.convert_to_numpy(self._trained_logarithms())
        self.rate.assign(rate)
        self._set_logarithms(values)

    @property
    def holds(self) -> bool:
        """Whether `hold` was called. It reads a variable: not for use in a training step."""
        return bool(as_tensor(self.held_levels) > NOT_HELD)

    def unit_of(self, variable: keras.Variable) -> float:
        """See `Quantizer`; 1 in the variable of logarithms stands for `rate` octaves."""
        return float(as_tensor(self.rate)) if variable is self._logarithms else 1.0

    def held(self) -> Tensor:
        """The fixed number of levels of a held grid; 0 if it is not held. `()` or `(channels,)`."""
        return as_tensor(self.held_levels)

    def bit_width(self, *kernel: Tensor) -> Tensor:
        """The real-valued widths in bits; of a held grid the logarithm of its levels."""
        width, held = self.width_of(*self.width_terms(*kernel)), self.held()
        share = ops.where(held > NOT_HELD, held / 2.0**self.target_bits, 1.0)  # log2(1) is exact
        return ops.where(held > NOT_HELD, self.target_bits + ops.log2(share), width)

    def _kept_levels(self, *kernel: Tensor, fill: bool) -> Any:
        """The levels that `hold` fixes: all of the target, or the learned ones if they are fewer.

        Grids have at least two levels.
        """
        most = 2.0**self.target_bits
        found = np.clip(ops.convert_to_numpy(self.levels(*kernel)), 2.0, most)
        return np.full_like(found, most) if fill else found

    def levels(self, *kernel: Tensor) -> Tensor:
        """The number of levels, as floats."""
        raise NotImplementedError

    def width_terms(self, *kernel: Tensor) -> tuple[Tensor, Tensor]:
        """The arguments of `width_of`: two tensors with one number for each learned bit width.

        Args:
            kernel: the latent kernel, for a quantizer of weights. A quantizer of activations takes
                no argument.
        """
        raise NotImplementedError

    def width_of(self, extent: Tensor, log_scale: Tensor) -> Tensor:
        """The real-valued width of each pair of terms, from any quantizers of this kind."""
        raise NotImplementedError

    def _at_least_target(self, bits: float | None) -> float:
        return float(self.target_bits if bits is None else max(bits, self.target_bits))

    def training_options(self, x: Tensor) -> dict[str, Any]:
        options = super().training_options(x)
        return {**options, "noise_sign": self.draw_noise_sign(x)} if self._noise.draws else options

    def draw_noise_sign(self, x: Tensor) -> Tensor | RankOneSigns:
        """Fresh signs of +-1/2 for the elements of `x`."""
        return random_noise_sign(ops.shape(x), self.seed_generator)

    def qparams(self) -> QuantParams:
        """The grid learned so far.

        Raises:
            LoweringError: the offset is free.
        """
        self._check_snapped()
        return super().qparams()

    def _noise_now(self, sign: Tensor | RankOneSigns | None) -> NoiseModel:
        """The noise model with the current options of the estimator."""
        return dataclasses.replace(self._noise, estimator=self.estimator_now(), sign=sign)

    def _add_logarithms(self, input_shape: tuple[int | None, ...]) -> keras.Variable:
        """Adds the variable of all trained base-2 logarithms, divided by `rate`."""
        raise NotImplementedError

    def _trained_logarithms(self) -> Tensor:
        return as_tensor(self._logarithms) * as_tensor(self.rate)

    def _set_logarithms(self, values: Any) -> None:
        self._logarithms.assign(values / as_tensor(self.rate))

    def _log(self, logarithm: Tensor) -> Tensor:
        """The trained logarithm for bit widths: of the step in the table, unless free."""
        return snapped_log(logarithm) if self.deployable else logarithm

    def _check_snapped(self, name: str | None = None) -> None:
        if not self.deployable:
            raise LoweringError(
                f"The grid of {name or self.name!r} has a free offset, which is no whole number of "
                'steps: integers cannot state it. Train with offset="snapped", the default.'
            )

    def _check_in_table(self, name: str | None = None) -> None:
        """Refuses a step that has left the table of steps, on which grids are exact."""
        logarithms = ops.convert_to_numpy(self._trained_logarithms())
        if not np.all(np.abs(logarithms) <= LARGEST_EXPONENT):  # also if one is NaN
            raise LoweringError(
                f"The grid of {name or self.name!r} has the logarithms of steps {logarithms}, and "
                f"they can be -{LARGEST_EXPONENT} to {LARGEST_EXPONENT}. {DIVERGED}"
            )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["grid"]
        return {
            **config,
            "target_bits": self.target_bits,
            "estimator": "lsq" if self._noise.mode == "lsq" else config["estimator"],
            "noise_gradient": self.noise_gradient,
            "offset": self.offset_kind,
            "start_bits": self.start_bits,
            "start_range": self.start_range,
        }


def checked_bits(bits: Any, what: str) -> int:
    """The bits as a plain integer; raises a `ValueError` unless they are from 1 to 8."""
    check_bits(bits, what)
    return int(bits)


def table_log(scale: Any) -> Any:
    """`log2(scale)`, rounded to the logarithm of an entry of the table.

    >>> float(table_log(0.5001))
    -1.0
    """
    return np.float32(np.rint(256.0 * np.log2(np.asarray(scale, np.float64))) / 256.0)


def most_levels(bits: float) -> float:
    """The largest number of levels that counts as `bits`: `2**bits`, and half a level more.

    >>> most_levels(2.0)
    4.5
    """
    return float(2.0**bits + 0.5)


def described_levels(levels: float) -> str:
    """A number of levels and its bit width, as text for messages.

    >>> described_levels(300.0)
    '300 levels (8.2 bits)'
    """
    return f"{int(levels)} levels ({math.log2(levels):.1f} bits)"
