"""Golden vectors of the EWGS quantizers: sections `ewgs, ewgs_init`."""

import numpy as np
import pytest
from keras import ops

from tests.golden_vectors import Case, cases, compiled, image, kernel, value_and_gradients
from tests.quantizers.ewgs_gradients import (
    initial_activation_interval,
    initial_output_scale,
    initial_weight_interval,
    interval_levels,
)

pytestmark = pytest.mark.slow_beyond(1)

eager_and_jit = pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])


def test_all_cases_are_here():
    assert (len(cases("ewgs")), len(cases("ewgs_init"))) == (6, 2)


@eager_and_jit
@pytest.mark.parametrize("name", cases("ewgs"))
def test_ewgs(name, jit):
    case = Case("ewgs", name)
    delta = np.float32(0.0 if case["baseline_ste"] else case["delta"])
    case.unread.discard("delta")
    level_count, centred = int(case["levels"]), name.startswith("w")

    def quantize(x, lower, upper, delta):
        return interval_levels(x, lower, upper, level_count, delta, centred)

    output, (dx, dl, du, ddelta) = value_and_gradients(
        quantize, [case["x"], case["l"], case["u"], delta], case["g"], jit
    )
    case.check("y", output)
    case.check("dx", dx)
    case.check("dl", dl)
    case.check("du", du)
    assert ddelta == 0
    case.finish()


@eager_and_jit
@pytest.mark.parametrize("name", cases("ewgs_init"))
def test_ewgs_init(name, jit):
    case = Case("ewgs_init", name)
    level_count, stride, pad = int(case["levels"]), int(case["stride"]), int(case["pad"])

    def convolve(x, weights):
        padded = ops.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        return ops.conv(padded, weights, stride, "valid")

    def start(x, weights):
        weight_ends, x_ends = initial_weight_interval(weights), initial_activation_interval(x)
        w_hat = interval_levels(weights, *weight_ends, level_count, centred=True)
        quantized = convolve(interval_levels(x, *x_ends, level_count), w_hat)
        scale = initial_output_scale(convolve(x, weights), quantized)
        return *weight_ends, *x_ends, scale, ops.abs(scale) * quantized

    results = (compiled(start) if jit else start)(image(case["x"]), kernel(case["w"]))
    for key, result in zip(("lW", "uW", "lA", "uA", "output_scale"), results[:5], strict=True):
        case.check(key, result)
    case.check("y", results[5], image)
    case.finish()


def test_a_level_count_below_two_is_refused():
    with pytest.raises(ValueError, match=r"level_count must be .* Received: 1"):
        interval_levels([0.0], 0.0, 1.0, 1)


def test_one_value_has_no_deviation():
    with pytest.raises(ValueError, match=r"two values or more. Received: 1"):
        initial_weight_interval([1.0])
