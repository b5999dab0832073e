"""The penalty and the distillation losses: sections `pot, pot_seq, distill, net`, and laws."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_qat.quantizers.gdnsq.noise_model import NoiseModel
from keras_qat.quantizers.gdnsq.published_grids import (
    fake_quantize_activations,
    fake_quantize_weights,
)
from keras_qat.training.losses import (
    DISTILLATION_LOSSES,
    RunningMean,
    exterior_point_potential,
    get_distillation_loss,
    jeffreys_divergence,
)
from tests.golden_vectors import Case, cases, compiled, image, kernel, value_and_gradients
from tests.quantizers.published_gdnsq import weight_bit_width

pytestmark = pytest.mark.slow_beyond(1)

eager_and_jit = pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
LEAVES = ["log_act_s", "log_act_q", "log_wght_s", "log_wght_q"]
COUNTS = {"pot": 5, "pot_seq": 1, "distill": 2, "net": 2}


@pytest.mark.parametrize(("section", "count"), COUNTS.items())
def test_all_cases_are_here(section, count):
    assert len(cases(section)) == count


@eager_and_jit
@pytest.mark.parametrize("name", cases("pot"))
def test_pot(name, jit):
    case = Case("pot", name)
    count = case["cnt_before"].astype(np.float32)
    mean_loss = RunningMean(case["loss_sum_before"] / count, count)
    lossless = bool(case["lossless"])

    def potential(base, log_act_s, log_act_q, log_wght_s, log_wght_q):
        return exterior_point_potential(
            base,
            log_wght_q - log_wght_s,
            log_act_q - log_act_s,
            case["target_w"],
            case["target_a"],
            case["t"],
            mean_loss,
            lossless,
        )

    inputs = [case["base_loss"], *(case[key] for key in LEAVES)]
    _, gradients = value_and_gradients(lambda *leaves: potential(*leaves).loss, inputs, jit=jit)
    for key, gradient in zip(["base", *LEAVES], gradients, strict=True):
        case.check(f"d_{key}", gradient)
    result = (compiled(potential) if jit else potential)(*inputs)
    case.check("loss", result.loss)
    case.check("calib_mul", mean_loss.value)
    case.check("wloss", result.weight_penalty)
    case.check("aloss", result.activation_penalty)
    case.check("wmul", result.weight_share)
    case.check("amul", result.activation_share)
    case.check("cnt_after", result.mean_loss.count)
    case.check("loss_sum_after", result.mean_loss.value * result.mean_loss.count)
    weights_over = (case["log_wght_q"] - case["log_wght_s"] > case["target_w"] - 1e-3).sum()
    activations_over = (case["log_act_q"] - case["log_act_s"] > case["target_a"] - 1e-3).sum()
    case.check_exactly("n_active_w", weights_over)
    case.check_exactly("n_active_a", activations_over)
    case.finish()


@eager_and_jit
@pytest.mark.parametrize("name", cases("pot_seq"))
def test_pot_seq(name, jit):
    case = Case("pot_seq", name)

    def potential(base, log_act_s, log_act_q, log_wght_s, log_wght_q, t, mean, count):
        widths = log_wght_q - log_wght_s, log_act_q - log_act_s
        targets = case["target_w"], case["target_a"]
        return exterior_point_potential(base, *widths, *targets, t, RunningMean(mean, count))

    step = compiled(potential) if jit else potential
    mean_loss, losses, means = RunningMean.start(), [], []
    for row in zip(case["base_loss"], *(case[key] for key in LEAVES), case["t"], strict=True):
        means.append(float(mean_loss.value))
        result = step(*row, *mean_loss)
        losses.append(float(result.loss))
        mean_loss = result.mean_loss
    case.check("loss", np.array(losses))
    case.check("calib_mul", np.array(means))
    case.finish()


@pytest.mark.parametrize("squared", [False, True])
def test_the_gradient_of_a_squared_excess_vanishes_at_the_target(squared):
    """Weights of 3.0, 2.0 and 1.0 bits for a target of 2, one activation at its target."""
    weights, state = tf.constant([3.0, 2.0, 1.0]), RunningMean(value=2.0, count=5.0)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        found = exterior_point_potential(
            1.0, weights, [1.0], 2, 2, 3.0, state, squared=tf.constant(squared)
        )
    slopes = tape.gradient(found.loss, weights)
    factor = 3.0 * 2.0 * float(found.weight_share) / 3
    above = np.float32([1.0 + 1e-3, 1e-3, 0.0])  # a margin of 1e-3 below the target
    expected = factor * (2.0 * above if squared else np.sign(above))
    np.testing.assert_allclose(slopes, expected, rtol=1e-3)  # 2 + 1e-3 - 2 has 4 digits in float32
    power = 2 if squared else 1
    np.testing.assert_allclose(found.weight_penalty, np.mean(above**power), rtol=1e-3)


def test_no_activation_quantizers_or_no_weights_at_all():
    state = RunningMean(1.0, 3.0)
    weights_only = exterior_point_potential(1.0, [3.0], np.zeros(0, np.float32), 2, 2, 1.0, state)
    np.testing.assert_allclose(float(weights_only.loss), 1.0 + 1.001, rtol=1e-6)
    nothing = exterior_point_potential(1.0, ops.zeros(0), ops.zeros(0), 2, 2, 1.0, state)
    assert float(nothing.loss) == 1.0


@settings(max_examples=30, deadline=None)
@given(losses=st.lists(st.floats(0.0, 10.0, width=32), min_size=1, max_size=60))
def test_the_running_mean_is_the_sum_over_one_more_than_the_calls(losses):
    state = RunningMean.start()
    for loss in losses:
        state = state.updated(np.float32(loss))
    expected = np.sum(np.float64(losses)) / (len(losses) + 1)
    np.testing.assert_allclose(float(state.value), expected, rtol=1e-5, atol=1e-6)
    assert float(state.count) == len(losses) + 1


CLASSES = {"0": 10, "1": 4}
LOSSES = {
    "symm_kl": ("jeffreys", lambda classes: 1.0),
    "kl_mean": ("kl", lambda classes: 1.0 / classes),
    "jsd_code": ("jeffreys", lambda classes: 0.5 / classes),
    "hellinger": ("hellinger", lambda classes: 1.0),
    "symm_ce": ("symmetric_cross_entropy", lambda classes: 1.0),
    "ce_soft": ("soft_cross_entropy", lambda classes: 1.0),
}
"""Key of the vectors -> our loss, and the published factor that ours leaves out."""


@eager_and_jit
@pytest.mark.parametrize("name", cases("distill"))
def test_distill(name, jit):
    case = Case("distill", name)
    logits = [case["student_logits"], case["teacher_logits"]]
    classes = logits[0].shape[1]

    def every_loss(student, teacher):
        values = [
            get_distillation_loss(loss)(student[i], teacher[i]) * factor(classes)
            for i, (loss, factor) in enumerate(LOSSES.values())
        ]
        return ops.stack(values)

    inputs = [np.stack([value] * len(LOSSES)) for value in logits]
    values, (gradients, teacher_gradients) = value_and_gradients(
        every_loss, inputs, np.float32(1), jit
    )
    for i, key in enumerate(LOSSES):
        case.check(key, values[i])
        case.check(f"d_{key}", gradients[i])
    assert not teacher_gradients.any()
    case.finish()


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES.values(), ids=DISTILLATION_LOSSES)
@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_losses_and_gradients_are_finite_and_least_at_the_teacher(loss, size):
    rng = np.random.default_rng(0)
    teacher = rng.normal(0, size, (5, 7)).astype(np.float32)
    student = rng.normal(0, size, (5, 7)).astype(np.float32)
    far, (gradient, _) = value_and_gradients(loss, [student, teacher])
    assert np.isfinite(far)
    assert np.isfinite(gradient).all()
    near, (gradient, _) = value_and_gradients(loss, [teacher, teacher])
    assert near <= far
    if loss is not DISTILLATION_LOSSES["symmetric_cross_entropy"]:  # least at one class instead
        np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


@pytest.mark.parametrize("size", [0.3, 3.0])
def test_documented_gradients(size):
    """The docstrings' closed forms, in float64, against autodiff."""
    rng = np.random.default_rng(1)
    logits = [rng.normal(0, size, (4, 6)) for _ in range(2)]
    log_p, log_y = (z - np.log(np.exp(z).sum(1, keepdims=True)) for z in logits)
    p, y = np.exp(log_p), np.exp(log_y)

    def projected(u):
        return p * (u - (p * u).sum(1, keepdims=True))

    u = (p - np.sqrt(p * y)) / 6
    log_m = np.log((p + y) / 2)
    expected = {
        "jeffreys": projected(log_p - log_y) + p - y,
        "soft_cross_entropy": p - y,
        "symmetric_cross_entropy": p - y - projected(log_y),
        "kl": p - y,
        "hellinger": u - p * u.sum(1, keepdims=True),
        "jensen_shannon": projected(log_p - log_m) / 2,
        "l1": np.sign(logits[0] - logits[1]) / 6,
        "l2": 2 * (logits[0] - logits[1]) / 6,
    }
    inputs = [z.astype(np.float32) for z in logits]
    for name, loss in DISTILLATION_LOSSES.items():
        _, (gradient, _) = value_and_gradients(loss, inputs)
        np.testing.assert_allclose(gradient, expected[name] / 4, atol=2e-6, err_msg=name)


def test_wrong_names_and_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one of \['hellinger', .*Received: 'l3'"):
        get_distillation_loss("l3")
    with pytest.raises(ValueError, match=r"shape \(batch, ..., classes\).* Received: \(3,\)"):
        jeffreys_divergence([0.0, 0.0, 0.0], [[0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r'two classes or more.* "l2" or "l1"'):
        jeffreys_divergence([[0.0]], [[1.0]])


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
def test_of_any_rank_it_is_the_mean_over_all_positions(loss):
    function, rng = get_distillation_loss(loss), np.random.default_rng(3)
    student, teacher = rng.normal(size=(2, 4, 3, 5, 7)).astype(np.float32)
    flat = function(student.reshape(-1, 7), teacher.reshape(-1, 7))
    found = function(student, teacher)
    np.testing.assert_allclose(float(found), float(flat), rtol=1e-5)  # float32 sums


@eager_and_jit
@pytest.mark.parametrize("name", cases("net"))
def test_net(name, jit):
    """Two quantized layers, distillation and penalty: every gradient of the whole."""
    case = Case("net", name)
    bits, method = int(case["target_bits"]), str(case["weight_method"])
    count = case["cnt_before"].astype(np.float32)
    mean_loss = RunningMean(case["loss_sum_before"] / count, count)
    signs = {key: image(case[f"rand_sign_{key}"]) for key in ("act1", "act2")}
    signs |= {key: kernel(case[f"rand_sign_{key}"]) for key in ("conv1", "conv2")}
    keys = [f"{a}/{p}" for a in ("act1", "act2") for p in ("act_b", "log_act_s", "log_act_q")]
    keys += ["conv1/weight", "conv1/log_wght_s", "conv2/weight", "conv2/log_wght_s", "conv2/bias"]

    def logits_of(p):
        def activation(layer, x, signed):
            parameters = (p[f"{layer}/{key}"] for key in ("act_b", "log_act_s", "log_act_q"))
            return fake_quantize_activations(
                x, *parameters, signed, NoiseModel.of(sign=signs[layer])
            )

        def weight(layer):
            log_scale = p[f"{layer}/log_wght_s"]
            return fake_quantize_weights(
                p[f"{layer}/weight"], log_scale, NoiseModel.of(method, sign=signs[layer])
            )

        x = ops.pad(activation("act1", image(case["x"]), True), [[0, 0], [1, 1], [1, 1], [0, 0]])
        x = ops.relu(ops.conv(x, weight("conv1"), 1, "valid"))
        x = ops.conv(activation("act2", x, False), weight("conv2"), 2, "valid")
        return ops.mean(x + p["conv2/bias"], axis=(1, 2))

    def loss(*values):
        p = dict(zip(keys, values, strict=True))
        widths = [
            weight_bit_width(p[f"{c}/weight"], p[f"{c}/log_wght_s"]) for c in ("conv1", "conv2")
        ]
        activation_widths = [p[f"{a}/log_act_q"] - p[f"{a}/log_act_s"] for a in ("act1", "act2")]
        return exterior_point_potential(
            jeffreys_divergence(logits_of(p), case["teacher_logits"]),
            ops.concatenate(widths),
            ops.concatenate(activation_widths),
            bits,
            bits,
            case["t"],
            mean_loss,
        ).loss

    layouts = {key: kernel for key in keys if key.endswith("weight")}
    layouts |= {key: np.ravel for key in keys if key.endswith("log_wght_s")}
    inputs = [layouts.get(key, np.asarray)(case[key]) for key in keys]
    value, gradients = value_and_gradients(loss, inputs, jit=jit)
    case.check("loss", value)
    for key, gradient in zip(keys, gradients, strict=True):
        layer, parameter = key.split("/")
        case.check(f"{layer}/d_{parameter}", gradient, layouts.get(key, np.asarray))
    case.check(
        "logits", logits_of(dict(zip(keys, map(ops.convert_to_tensor, inputs), strict=True)))
    )
    case.finish("las", "laq", "lws", "lwq")  # collected copies of parameters and their widths


def test_a_negative_loss_does_not_reward_bits():
    """With a loss such as the cosine similarity, the penalty still grows with the width."""
    state = RunningMean.start()
    for _ in range(3):
        state = state.updated(ops.convert_to_tensor(-0.8))
    assert float(state.value) == pytest.approx(0.6)
    losses = [
        float(exterior_point_potential(-0.8, [bits], [1.0], 2, 2, 1.0, state).loss)
        for bits in (2.0, 4.0, 8.0)
    ]
    assert losses == sorted(losses)
    assert losses[2] - losses[1] == pytest.approx(0.6 * 4.0, rel=1e-3)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_loss_that_is_not_finite_does_not_count(bad):
    state = RunningMean.start().updated(ops.convert_to_tensor(3.0))
    after = state.updated(ops.convert_to_tensor(np.float32(bad)))
    assert (float(after.value), float(after.count)) == (float(state.value), float(state.count))
