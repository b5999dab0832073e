"""Estimators of the gradient through rounding: what a backward pass makes of rounding noise.

Rounding adds noise: a position `v` on the grid, in steps, becomes the code `q = v + e` with
`e` in [-1/2, 1/2]. For an upstream gradient `g`, an estimator states two factors per element:
the gradient of the input is `g * phi`, and the gradient of the step gains `g * rho`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any
Axes = tuple[int, ...]

_SMALLEST_VARIANCE = 1e-3
_LARGEST_REDUCTION = 0.99
_COINS_IN_A_WORD = 16


@dataclasses.dataclass(frozen=True)
class NoiseEstimator:
    """The two factors of one estimator.

    Args:
        input_factor: `(upstream, noise, mean_axes) -> phi`, of the shape of `noise`; None means 1
            for every element, and costs nothing.
        scale_term: `(noise, noise_sign) -> rho`, of the shape of `noise`; None means 0.
    """

    input_factor: Callable[[Tensor, Tensor, Axes], Tensor] | None
    scale_term: Callable[[Tensor, Tensor | None], Tensor | None]


def element_wise_scaling(
    upstream: Tensor, noise: Tensor, mean_axes: Axes = (), delta: float | Tensor = 0.01
) -> Tensor:
    """`phi = 1 - delta * sign(g) * e` (EWGS): larger where descent moves away from the code.

    Source: Lee et al. 2021 (arXiv 2104.00903); `noise` in steps, `mean_axes` unused.

    >>> [round(float(v), 3) for v in element_wise_scaling([2.0, -2.0], [0.5, 0.5])]
    [0.995, 1.005]
    """
    return 1.0 - delta * ops.sign(upstream) * noise


def adaptive_element_wise_scaling(upstream: Tensor, noise: Tensor, mean_axes: Axes) -> Tensor:
    """EWGS with the least-squares slope of `sign(g)` on `e` in place of `delta` (AEWGS).

    `phi = 1 - min(d * sign(g) * e, 0.99)` and `d = mean(sign(g) * e) / max(var(e), 1e-3)`; the
    means run over `mean_axes`, the elements that share a step.

    Source: GDNSQ (arXiv 2508.14004), its published code.

    >>> phi = adaptive_element_wise_scaling([1.0, -1.0], [0.25, -0.25], mean_axes=(0,))
    >>> [round(float(v), 3) for v in phi]
    [0.01, 0.01]
    """
    signed_noise = ops.sign(upstream) * noise
    mean = ops.mean(noise, axis=mean_axes, keepdims=True)
    mean_square = ops.mean(ops.square(noise), axis=mean_axes, keepdims=True)
    variance = ops.maximum(mean_square - ops.square(mean), _SMALLEST_VARIANCE)
    slope = ops.mean(signed_noise, axis=mean_axes, keepdims=True) / variance
    return 1.0 - ops.minimum(slope * signed_noise, _LARGEST_REDUCTION)


def random_scale_term(noise: Tensor, noise_sign: Tensor | None) -> Tensor | None:
    """`rho = r / sqrt(3)` for given signs `r` of +-1/2: the variance of the noise, without it.

    Without signs the term is its expectation, 0.

    >>> [round(float(v), 3) for v in random_scale_term(None, keras.ops.array([0.5, -0.5]))]
    [0.289, -0.289]
    """
    return None if noise_sign is None else noise_sign * (1.0 / math.sqrt(3.0))


def noise_scale_term(noise: Tensor, noise_sign: Tensor | None) -> Tensor:
    """`rho = e`: the noise itself.

    >>> noise_scale_term(0.25, noise_sign=None)
    0.25
    """
    return noise


NOISE_ESTIMATORS: dict[str, NoiseEstimator] = {
    "ste": NoiseEstimator(None, random_scale_term),
    "ewgs": NoiseEstimator(element_wise_scaling, random_scale_term),
    "aewgs": NoiseEstimator(adaptive_element_wise_scaling, random_scale_term),
    "lsq": NoiseEstimator(None, noise_scale_term),
}
"""Every estimator by name; a new one is a function and a line."""


def get_noise_estimator(identifier: str | NoiseEstimator) -> NoiseEstimator:
    """The estimator of that name; an estimator is returned as it is.

    >>> get_noise_estimator("ste").input_factor is None
    True
    """
    if isinstance(identifier, NoiseEstimator):
        return identifier
    if isinstance(identifier, str) and identifier in NOISE_ESTIMATORS:
        return NOISE_ESTIMATORS[identifier]
    raise ValueError(
        f"The estimator must be a NoiseEstimator or one of {sorted(NOISE_ESTIMATORS)}. "
        f"Received: {identifier!r}"
    )


def random_noise_sign(shape: tuple[int, ...], seed: Any = None) -> Tensor:
    """Signs `r` for `random_scale_term`: independent fair draws from {-1/2, +1/2}, float32.

    A drawn number gives as many signs as it has bits: this costs a third of a draw for each.

    Args:
        shape: of the tensor that is quantized; its last size is a number.
        seed: an integer, or a `keras.random.SeedGenerator` for fresh draws at every call.

    >>> sorted({float(v) for v in random_noise_sign((64,), seed=0)})
    [-0.5, 0.5]
    """
    *leading, channels = shape
    words = -(-channels // _COINS_IN_A_WORD)
    coins = keras.random.randint((*leading, words, 1), 0, 1 << _COINS_IN_A_WORD, seed=seed)
    heads = ops.bitwise_and(coins, 1 << np.arange(_COINS_IN_A_WORD, dtype=np.int32)) > 0
    signs = ops.reshape(ops.where(heads, 0.5, -0.5), (*leading, words * _COINS_IN_A_WORD))
    return signs if words * _COINS_IN_A_WORD == channels else signs[..., :channels]
