"""Random signs for GDNSQ's gradient of a step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from keras import ops

from keras_qat.quantizers.random_integers import draw_integers
from keras_qat.quantizers.reductions import sum_to_shape
from keras_qat.tensors import Tensor


def random_noise_sign(shape: tuple[Any, ...], seed: Any) -> Tensor:
    """Independent fair draws from {-1/2, +1/2}, float32: `r` in the gradient of a step.

    Args:
        shape: the shape of the quantized tensor.
        seed: an integer, or a `keras.random.SeedGenerator` for fresh draws in every call.

    >>> sorted({float(v) for v in random_noise_sign((64,), seed=0)})
    [-0.5, 0.5]
    """
    return ops.cast(draw_integers(shape, 2, seed), "float32") - 0.5


class RankOneSigns(NamedTuple):
    """A sign for every element of a batch: the sign of its example times the sign of its feature.

    Any two signs are independent, so a sum of elements with these signs has the mean and the
    variance of a sum with independent signs. The sum is one matrix product. No tensor of signs is
    drawn or kept until the backward pass.

    Attributes:
        examples: +-1/2, of shape `(batch, 1)`.
        features: +-1, of shape `(features, 1)`.
    """

    examples: Tensor
    features: Tensor

    def signed_sum(self, values: Tensor) -> Tensor:
        """`sum r * values` over a batch, a scalar."""
        rows = ops.reshape(values, (-1, ops.shape(self.features)[0]))
        return ops.sum(ops.matmul(rows, self.features) * self.examples)


def random_rank_one_signs(shape: tuple[Any, ...], seed: Any) -> RankOneSigns:
    """Fair draws for a batch of the given shape.

    >>> signs = random_rank_one_signs((4, 3, 3, 8), seed=0)
    >>> tuple(signs.examples.shape), tuple(signs.features.shape)
    ((4, 1), (72, 1))
    """
    batch, *features = shape
    count = math.prod(features)
    signs = random_noise_sign((count + batch, 1), seed)
    return RankOneSigns(signs[count:], 2.0 * signs[:count])


def signed_sum(values: Tensor, noise_sign: Tensor | RankOneSigns, parameter: Tensor) -> Tensor:
    """`sum r * values` over the elements that share a number, in the parameter's shape.

    >>> float(signed_sum(ops.array([1.0, 3.0]), ops.array([0.5, -0.5]), ops.zeros(())))
    -1.0
    """
    if isinstance(noise_sign, RankOneSigns):
        return noise_sign.signed_sum(values)
    return sum_to_shape(values * noise_sign, parameter)
