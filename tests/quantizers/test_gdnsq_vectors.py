"""Golden vectors of GDNSQ's quantizers: sections `w, w_tie, a, a_tie, layer, calib, converged`."""

import functools
import re

import numpy as np
import pytest
from keras import ops

from keras_qat.quantizers.gdnsq.bit_width import (
    activation_bit_width,
    levels,
)
from keras_qat.quantizers.gdnsq.calibration import (
    calibrated_activation_parameters,
    calibrated_weight_log_scale,
)
from keras_qat.quantizers.gdnsq.noise_model import NoiseModel
from keras_qat.quantizers.gdnsq.published_grids import (
    fake_quantize_activations,
    fake_quantize_weights,
)
from keras_qat.quantizers.power_of_two import power_of_two
from tests.golden_vectors import (
    VECTORS,
    Case,
    cases,
    compiled,
    image,
    kernel,
    value_and_gradients,
)
from tests.quantizers.published_gdnsq import (
    activation_codes,
    fake_quantize_affine,
    meets_bits,
    true_bit_width,
    weight_bit_width,
    weight_codes,
    weight_log_range,
)

pytestmark = pytest.mark.slow_beyond(1)

eager_and_jit = pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
METHODS = ["ste", "lsq", "ewgs", "aewgs"]
TIE_METHODS = ["ste", "lsq", "aewgs"]
RANDOM_METHODS = ["ste", "ewgs", "aewgs"]
COUNTS = {"w": 10, "w_tie": 2, "a": 7, "a_tie": 2, "layer": 3, "calib": 2, "converged": 4, "net": 2}


@pytest.mark.parametrize(("section", "count"), COUNTS.items())
def test_all_cases_are_here(section, count):
    assert len(cases(section)) == count


def test_every_section_of_the_vectors_has_a_test():
    ours = {*COUNTS, "pot", "pot_seq", "distill", "sched", "radam", "ewgs", "ewgs_init"}
    elsewhere = {"lsq", "pege"}  # test_vectors.py, test_replacement.py, test_schedules.py
    assert {key.split("/")[0] for key in VECTORS.files} == ours | elsewhere


def weight_case(section, name):
    """The case, its inputs in Keras layout, and the official axes of AEWGS' means."""
    case = Case(section, name)
    per_channel = section == "w_tie" or bool(case["per_channel"])
    log_scale = case["log_s"].reshape(-1) if per_channel else case["log_s"]
    weights = kernel(case["w"])
    return case, weights, log_scale, None if per_channel else (weights.ndim - 1,)


def weights_and_method_gradients(case, weights, log_scale, mean_axes, methods, jit):
    """Checks `w_hat` and all gradients of all methods, in one compiled function."""
    sign = kernel(case["rand_sign"])

    def every_method(weights, log_scales):
        outputs = [
            fake_quantize_weights(
                weights[i], log_scales[i], NoiseModel.of(method, "head", sign, mean_axes)
            )
            for i, method in enumerate(methods)
        ]
        return ops.stack(outputs)

    copies = len(methods)
    output, (dw, dlog_s) = value_and_gradients(
        every_method,
        [np.stack([weights] * copies), np.stack([log_scale] * copies)],
        kernel(case["g"]),
        jit,
    )
    for i, method in enumerate(methods):
        case.check("w_hat", output[i], kernel)
        case.check(f"{method}/dw", dw[i], kernel)
        case.check(f"{method}/dlog_s", dlog_s[i])
    codes = (compiled(weight_codes) if jit else weight_codes)(weights, log_scale)
    case.check_exactly("q", codes, kernel)
    return output[0]


@eager_and_jit
@pytest.mark.parametrize("name", cases("w"))
def test_w(name, jit):
    case, weights, log_scale, mean_axes = weight_case("w", name)
    weights_and_method_gradients(case, weights, log_scale, mean_axes, METHODS, jit)
    case.check("zero_point", weights.min(axis=(0, 1, 2) if mean_axes is None else None))
    case.finish(*WIDTH_KEYS, *(f"{method}/dlog_s_expect" for method in RANDOM_METHODS))


WIDTH_KEYS = ["log_wq", "bw", "dbw_dw", "dbw_dlog_s", "bw_true"]


@pytest.mark.parametrize("name", cases("w"))
def test_w_expected_gradient_leaves_the_random_term_out(name):
    case, weights, log_scale, mean_axes = weight_case("w", name)
    for method in RANDOM_METHODS:
        for options in ({}, {"noise_gradient": "none", "sign": kernel(case["rand_sign"])}):
            noise = NoiseModel.of(method, mean_axes=mean_axes, **options)
            quantize = functools.partial(fake_quantize_weights, noise=noise)
            _, (_, dlog_s) = value_and_gradients(quantize, [weights, log_scale], kernel(case["g"]))
            # The closed form in float32 carries the error of the run with the random term.
            estimate = float(VECTORS[f"{case.prefix}{method}/dlog_s__f32err"])
            expected = case[f"{method}/dlog_s_expect"].reshape(-1)
            atol = 8 * estimate + 5e-5 * max(1e-3, np.abs(expected).max())
            np.testing.assert_allclose(dlog_s, expected, rtol=0, atol=atol)


@eager_and_jit
@pytest.mark.parametrize("name", cases("w"))
def test_w_bit_widths(name, jit):
    case, weights, log_scale, _ = weight_case("w", name)
    widths, (dw, dlog_s) = value_and_gradients(
        weight_bit_width, [weights, log_scale], np.float32(1), jit
    )
    case.check("bw", widths)
    case.check("log_wq", weight_log_range(weights, log_scale))
    case.check("dbw_dw", dw, kernel)
    case.check("dbw_dlog_s", dlog_s)
    per_channel = bool(case["per_channel"])
    case.check("bw_true", true_bit_width(kernel(case["q"]), (0, 1, 2) if per_channel else None))
    steps = 2.0**widths - 1.0
    np.testing.assert_allclose(np.log2(levels(steps)), case["bw_true"], rtol=1e-6)


@eager_and_jit
@pytest.mark.parametrize("name", cases("w_tie"))
def test_w_tie(name, jit):
    case, weights, log_scale, mean_axes = weight_case("w_tie", name)
    output = weights_and_method_gradients(case, weights, log_scale, mean_axes, TIE_METHODS, jit)
    case.check_exactly("w_hat", output, kernel)
    case.finish()


def activation_gradients(case, methods, jit):
    sign, signed = image(case["rand_sign"]), bool(case["signed"])
    parameters = [case["act_b"], case["log_act_s"], case["log_act_q"]]

    def every_method(x, offset, log_scale, log_range):
        outputs = [
            fake_quantize_activations(
                x[i],
                offset[i],
                log_scale[i],
                log_range[i],
                signed,
                NoiseModel.of(method, "head", sign, mean_axes=(0,)),
            )
            for i, method in enumerate(methods)
        ]
        return ops.stack(outputs)

    inputs = [np.stack([value] * len(methods)) for value in (image(case["x"]), *parameters)]
    output, (dx, db, dlog_s, dlog_q) = value_and_gradients(
        every_method, inputs, image(case["g"]), jit
    )
    for i, method in enumerate(methods):
        case.check("x_hat", output[i], image)
        case.check(f"{method}/dx", dx[i], image)
        case.check(f"{method}/db", db[i])
        case.check(f"{method}/dlog_s", dlog_s[i])
        case.check(f"{method}/dlog_q", dlog_q[i])
    codes = (compiled(activation_codes) if jit else activation_codes)(image(case["x"]), *parameters)
    case.check_exactly("q", codes, image)
    case.check("bw_true", true_bit_width(codes))
    case.check("bw_param", activation_bit_width(case["log_act_s"], case["log_act_q"]))
    offset, log_scale, log_range = (value.astype(np.float64) for value in parameters)
    case.check("lo", offset)
    case.check("hi", offset + 2**log_range - 2**log_scale)
    return output[0]


@eager_and_jit
@pytest.mark.parametrize("name", cases("a"))
def test_a(name, jit):
    case = Case("a", name)
    activation_gradients(case, METHODS, jit)
    case.finish()


@eager_and_jit
@pytest.mark.parametrize("name", cases("a_tie"))
def test_a_tie(name, jit):
    case = Case("a_tie", name)
    output = activation_gradients(case, TIE_METHODS, jit)
    case.check_exactly("x_hat", output, image)
    case.finish()


@eager_and_jit
@pytest.mark.parametrize("method", METHODS)
def test_a_through_the_affine_quantizer_and_autodiff(method, jit):
    """The closed forms equal the general one with its bounds spelled out."""
    case = Case("a", cases("a")[0])
    sign = image(case["rand_sign"])

    def spelled_out(x, offset, log_scale, log_range):
        upper = offset + power_of_two(log_range) - power_of_two(log_scale)
        return fake_quantize_affine(
            x, log_scale, offset, offset, upper, NoiseModel.of(method, "head", sign, (0,))
        )

    inputs = [image(case["x"]), case["act_b"], case["log_act_s"], case["log_act_q"]]
    output, (dx, db, dlog_s, dlog_q) = value_and_gradients(
        spelled_out, inputs, image(case["g"]), jit
    )
    case.check("x_hat", output, image)
    case.check(f"{method}/dx", dx, image)
    case.check(f"{method}/db", db)
    case.check(f"{method}/dlog_s", dlog_s)
    case.check(f"{method}/dlog_q", dlog_q)


@eager_and_jit
@pytest.mark.parametrize("name", cases("layer"))
def test_layer(name, jit):
    case = Case("layer", name)
    sign_x, sign_w = image(case["rand_sign_act"]), kernel(case["rand_sign_weight"])
    signed, method = bool(case["signed"]), str(case["weight_method"])
    stride, pad = int(case["stride"]), int(case["pad"])

    def layer(x, weight, log_wght_s, act_b, log_act_s, log_act_q, bias):
        x_hat = fake_quantize_activations(
            x, act_b, log_act_s, log_act_q, signed, NoiseModel.of(sign=sign_x)
        )
        w_hat = fake_quantize_weights(weight, log_wght_s, NoiseModel.of(method, sign=sign_w))
        padded = ops.pad(x_hat, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        return ops.conv(padded, w_hat, stride, "valid") + bias

    names = ["x", "weight", "log_wght_s", "act_b", "log_act_s", "log_act_q"]
    inputs = [image(case["x"]), kernel(case["weight"]), case["log_wght_s"].reshape(-1)]
    inputs += [case[key] for key in names[3:]]
    bias = case["bias"] if "bias" in case else np.zeros_like(inputs[2])
    output, gradients = value_and_gradients(layer, [*inputs, bias], image(case["gy"]), jit)
    case.check("y", output, image)
    layouts = {"x": image, "weight": kernel}
    if "bias" in case:
        names.append("bias")
    for key, gradient in zip(names, gradients, strict=False):
        case.check(f"d{key}", gradient, layouts.get(key, np.asarray))
    case.finish()


@eager_and_jit
@pytest.mark.parametrize("name", cases("calib"))
def test_calib(name, jit):
    wrap = compiled if jit else lambda function: function
    case = Case("calib", name)
    weights, batches = kernel(case["w"]), case["x_batches"]
    shape = (weights.shape[-1],)
    log_scale = functools.partial(
        calibrated_weight_log_scale, bits=int(case["w_bits"]), shape=shape
    )
    case.check("log_wght_s", wrap(log_scale)(weights))
    start = functools.partial(calibrated_activation_parameters, bits=int(case["a_bits"]))
    parameters = wrap(start)(batches.min(), batches.max())
    case.check("act_b", parameters.offset)
    case.check("log_act_s", parameters.log_scale)
    case.check("log_act_q", parameters.log_range)
    case.finish()


@eager_and_jit
@pytest.mark.parametrize("name", cases("converged"))
def test_converged(name, jit):
    wrap = compiled if jit else lambda function: function
    case = Case("converged", name)
    bits = int(re.fullmatch(r"bits(\d)", name)[1])
    steps = case["range_over_s"]
    case.check_exactly("ok", wrap(functools.partial(meets_bits, bits=bits))(steps))
    case.check("true_bits", np.log2(wrap(levels)(steps)))
    case.finish()
