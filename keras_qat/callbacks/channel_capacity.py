"""A quantizer as a noisy channel: its grid, its saturation and its capacity."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.quantizers import GDNSQActivationQuantizer, GDNSQWeightQuantizer, Quantizer
from keras_qat.quantizers.reductions import sharing_axes

Array = npt.NDArray[np.floating[Any]]

FLOAT_BITS = 32.0
"""The bits of a value that no quantizer has put on a grid."""

_FLOAT_ERROR = 2.0**-10
"""In steps. A value this close to the clamp range does not count as saturated."""


def channel_capacity(variance: Any, step: Any, levels: Any) -> Array:
    """Effective capacity of a quantizer in bits per value.

    `C = min(1/2 * log2(1 + 12 * variance / step**2), log2(levels))`

    Rounding with the step `s` is modelled as uniform noise of variance `s**2 / 12`, independent of
    the signal (Bennett 1948, "Spectra of quantized signals"). The first term is the capacity of a
    channel that adds Gaussian noise of this power to a signal with the given variance (Shannon
    1948, "A mathematical theory of communication"). No code tells more than the second term.
    Reading the channels of GDNSQ (arXiv 2508.14004) this way is our own.

    The capacity compares quantizers. It does not measure the information in a network:

    * Bennett's model assumes fine steps, and is rough at 1 and 2 bits.
    * The first term is the capacity for a Gaussian signal, not for the actual one.
    * The values of one tensor depend on each other.
    * Values that clamping cuts off do not count as noise, so look at the saturation as well.

    Args:
        variance: the variance of the values, in their units squared.
        step: the distance between two levels, in the units of the values.
        levels: the number of levels.

    Returns:
        float64, in the shape that the arguments broadcast to; NaN where the variance is NaN.

    Raises:
        ValueError: a negative variance, a step that is not positive, or less than one level.

    >>> [round(float(bits), 3) for bits in channel_capacity([0.0, 1.0, 1e6], step=2.0, levels=16)]
    [0.0, 1.0, 4.0]
    """
    variance, step, levels = (np.asarray(each, np.float64) for each in (variance, step, levels))
    if np.any(variance < 0.0) or np.any(step <= 0.0) or np.any(levels < 1.0):
        raise ValueError(
            "A capacity needs a variance of 0 or more, a positive step and at least one level. "
            f"Received: variance={variance}, step={step}, levels={levels}"
        )
    entropy = 0.5 * np.log2(1.0 + 12.0 * variance / step**2)
    return np.asarray(np.minimum(entropy, np.log2(levels)))


@dataclasses.dataclass(frozen=True, eq=False)
class Channel:
    """The current grid of a quantizer, as arrays of shape `()` or `(channels,)`.

    Attributes:
        bits: the real-valued width, or the bits of a fixed grid.
        step: the distance between two levels, in real units.
        low: the lowest level.
        high: the highest level.
        levels: the number of levels.
        slack: the distance beyond `low` and `high` up to which a value counts as rounded, not as
            cut off.
    """

    bits: Array
    step: Array
    low: Array
    high: Array
    levels: Array
    slack: Array


@functools.singledispatch
def channel_of(quantizer: Quantizer, kernel: Any = None) -> Channel:
    """The current channel of a quantizer. A quantizer of GDNSQ weights needs their `kernel`.

    For a grid with fixed or learned ends, `low` and `high` are its clamp range. The grids of
    `GDNSQWeightQuantizer` follow the range of their weights. There, only a weight more than half
    a step beyond the outermost level counts as cut off, which happens on held grids.

    >>> from keras_qat.quantizers import Grid, STEWeightQuantizer
    >>> quantizer = STEWeightQuantizer(Grid.for_weights(2))
    >>> quantizer.build((4,))
    >>> channel = channel_of(quantizer)
    >>> float(channel.low), float(channel.high), int(channel.levels)
    (-2.0, 1.0, 4)
    """
    grid, scale = quantizer.grid, _numpy(quantizer.scale)
    return _channel(
        bits=float(quantizer.bits),
        step=scale * np.float32(grid.step),
        low=scale * np.float32(grid.qmin),
        high=scale * np.float32(grid.qmax),
        levels=(grid.qmax - grid.qmin) // grid.step + 1,
    )


@channel_of.register
def _(quantizer: GDNSQActivationQuantizer, kernel: Any = None) -> Channel:
    bits, step = _numpy(quantizer.bit_width()), _numpy(quantizer.step)
    if quantizer.deployable:
        ends = quantizer.forward_grid()
        lowest, highest = _numpy(ends.qmin), _numpy(ends.qmax)
        return _channel(bits, step, lowest * step, highest * step, highest - lowest + 1.0)
    low = _numpy(quantizer.offset)
    high = low + np.exp2(_numpy(quantizer.log_range)) - step
    return _channel(bits, step, low, high, _numpy(quantizer.levels()))


@channel_of.register
def _(quantizer: GDNSQWeightQuantizer, kernel: Any = None) -> Channel:
    if kernel is None:
        raise ValueError(f"The grid of {quantizer.name!r} depends on its weights: pass the kernel.")
    bits, step = _numpy(quantizer.bit_width(kernel)), _numpy(quantizer.step)
    if quantizer.deployable:
        grid = quantizer.weight_grid(kernel)
        unit, lowest, steps = (
            np.reshape(_numpy(each), step.shape) for each in (grid.unit, grid.lowest, grid.steps)
        )
        low, high = lowest * unit, (lowest + grid.stride * steps) * unit
        return _channel(bits, step, low, high, steps + 1.0, slack=0.5)
    levels = _numpy(quantizer.levels(kernel))
    low = np.reshape(np.min(_numpy(kernel), axis=sharing_axes(kernel, step)), step.shape)
    return _channel(bits, step, low, low + (levels - 1.0) * step, levels, slack=0.5)


class Measurement:
    """Statistics of the float values at the input of a channel, batch by batch."""

    def __init__(self, channel: Channel):
        self.channel = channel
        self.values = 0
        self._beyond = 0
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def add(self, values: Any) -> None:
        """Adds values. If the channel has several steps, they belong to the last axis."""
        channel = self.channel
        values = np.asarray(values, np.float32)
        low, high = channel.low - channel.slack, channel.high + channel.slack
        near = _FLOAT_ERROR * channel.step
        axes = tuple(range(values.ndim - channel.step.ndim))
        with np.errstate(invalid="ignore", over="ignore"):  # the record of a diverged run has None
            self._beyond += int(np.sum((values < low - near) | (values > high + near)))
            passed = np.clip(values, low, high)
            self._sum = self._sum + np.sum(passed, axis=axes, dtype=np.float64)
            self._squares = self._squares + np.sum(np.square(passed, dtype=np.float64), axis=axes)
        self.values += values.size

    def record(self) -> dict[str, float]:
        """The statistics as plain numbers, see `CapacityMonitor`."""
        channel = self.channel
        count = self.values / max(1, channel.step.size)
        with np.errstate(invalid="ignore", over="ignore"):
            mean = self._sum / count
            variance = np.maximum(self._squares / count - np.square(mean), 0.0)
            capacity = channel_capacity(variance, channel.step, channel.levels)
        return {
            "mean_bits": float(np.mean(channel.bits)),
            "max_bits": float(np.max(channel.bits)),
            "step": float(np.mean(channel.step)),
            "low": float(np.mean(channel.low)),
            "high": float(np.mean(channel.high)),
            "saturation": self._beyond / self.values,
            "bits_per_value": float(np.mean(capacity)),
        }


class FloatMeasurement:
    """The same statistics for a tensor that stays in float32.

    Float32 is a grid too, with a step that grows with the value: the distance to the next number.
    The capacity is the one of a channel whose step is the root of the mean of their squares.

    >>> measured = FloatMeasurement()
    >>> measured.add([1.0, 1.25, 1.5, 1.75])  # these lie 2**-23 apart
    >>> measured.record()["step"] == 2.0**-23, round(measured.record()["bits_per_value"], 1)
    (True, 23.0)
    """

    def __init__(self) -> None:
        self.values = 0
        self._low, self._high = np.inf, -np.inf
        self._sums = np.zeros(3)  # of values, of their squares, and of the squares of steps

    def add(self, values: Any) -> None:
        """Adds values."""
        values = np.asarray(values, np.float32)
        self.values += values.size
        self._low = min(self._low, float(np.min(values)))
        self._high = max(self._high, float(np.max(values)))
        with np.errstate(invalid="ignore", over="ignore"):
            powers = values, np.square(values, dtype=np.float64)
            steps = np.square(np.spacing(np.abs(values)), dtype=np.float64)
            self._sums += [np.sum(each, dtype=np.float64) for each in (*powers, steps)]

    def record(self) -> dict[str, float]:
        """The statistics as plain numbers, see `CapacityMonitor`."""
        with np.errstate(invalid="ignore", over="ignore"):
            mean, square, noise = self._sums / self.values
            capacity = channel_capacity(max(square - mean**2, 0.0), np.sqrt(noise), 2.0**FLOAT_BITS)
        return {
            "mean_bits": FLOAT_BITS,
            "max_bits": FLOAT_BITS,
            "step": float(np.sqrt(noise)),
            "low": self._low,
            "high": self._high,
            "saturation": 0.0,
            "bits_per_value": float(capacity),
        }


class CodeCounts:
    """How often a tensor takes each level, counted from the lowest one of its channel.

    >>> counts = CodeCounts(_channel(2.0, 1.0, 0.0, 3.0, 4))
    >>> counts.add([0.1, 0.9, 2.2, 9.0])
    >>> counts.entropy()
    2.0
    """

    def __init__(self, channel: Channel):
        self._channel = channel
        self._counts = np.zeros(int(np.max(channel.levels)))

    def add(self, values: Any) -> None:
        """Adds values; those beyond the ends count as the outermost levels."""
        channel = self._channel
        places = np.rint((np.asarray(values, np.float64) - channel.low) / channel.step)
        places = np.clip(places, 0, len(self._counts) - 1).astype(np.int64)
        self._counts += np.bincount(places.ravel(), minlength=len(self._counts))

    @property
    def counts(self) -> npt.NDArray[np.float64]:
        """The number of values of each level, from the lowest one on."""
        return self._counts

    def entropy(self) -> float:
        """`-sum(p * log2(p))` over the levels, in bits per value."""
        shares = self._counts[self._counts > 0.0] / np.sum(self._counts)
        return float(np.sum(shares * -np.log2(shares)))


def _channel(bits: Any, step: Any, low: Any, high: Any, levels: Any, slack: float = 0.0) -> Channel:
    values = (bits, step, low, high, levels, np.asarray(step) * slack)
    return Channel(*(np.asarray(value, np.float64) for value in values))


def _numpy(tensor: Any) -> Any:
    return np.asarray(ops.convert_to_numpy(tensor))
