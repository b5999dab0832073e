"""Which shapes go together, and what the sums and products are in real numbers."""

import numpy as np
import pytest

from keras_qat.integer import PROFILES, QuantParams, ops
from keras_qat.integer.ops.op import broadcast


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((1, 3, 2, 4), (1, 3, 2, 4), (1, 3, 2, 4)),
        ((1, 3, 2, 4), (1, 1, 1, 4), (1, 3, 2, 4)),
        ((1, 1, 2, 1), (1, 3, 1, 4), (1, 3, 2, 4)),
    ],
)
def test_sizes_of_one_are_repeated(left, right, expected):
    assert broadcast("Mul", left, right) == broadcast("Mul", right, left) == expected


@pytest.mark.parametrize("right", [(1, 4), (1, 3, 2, 5), (1, 2, 3, 4)])
def test_other_shapes_are_refused(right):
    with pytest.raises(ValueError, match=r"Mul needs two tensors .* Received: \(1, 3, 2, 4\) and"):
        ops.Mul(("a", "b"), "y").output_shape([(1, 3, 2, 4), right])


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("kind", "exact"), [(ops.Add, np.add), (ops.Sub, np.subtract), (ops.Mul, np.multiply)]
)
def test_the_result_is_the_nearest_code(kind, exact, profile):
    """Kernels that round twice are off by `2**-6` more, with this multiplier of 1/36."""
    left, right, output = (
        QuantParams(np.float32(scale), zero_point=zero_point)
        for scale, zero_point in ((0.1, 3), (0.07, -20), (0.25, 5))
    )
    codes = np.arange(-128, 128, dtype=np.int8)
    a = ops.QuantizedArray(codes[:, None], left)
    b = ops.QuantizedArray(codes[None, :], right)
    actual = kind(("a", "b"), "y").evaluate([a, b], output, PROFILES[profile]).astype(int)
    real = exact(a.centered() * 0.1, b.centered() * 0.07) / 0.25 + 5
    assert np.abs(actual - np.clip(real, -128, 127)).max() < 0.501 + 2.0**-6
