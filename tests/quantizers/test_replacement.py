"""Progressive replacement: which elements are chosen, and the gradients of a mixture."""

import functools
import itertools

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from keras_qat.estimators import STE, Estimator
from keras_qat.quantizers import (
    Grid,
    LSQActivationQuantizer,
    LSQWeightQuantizer,
    STEActivationQuantizer,
    STEWeightQuantizer,
)
from keras_qat.quantizers.fake_quantize import fixed_step_size, learned_step_size
from keras_qat.quantizers.replacement import (
    SELECTIONS,
    random_selection,
    random_selection_in_batch,
    selection_by_error,
)
from tests.golden_vectors import Case, cases, compiled, value_and_gradients

pytestmark = pytest.mark.slow_beyond(1)

eager_and_jit = pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
PEGE_CASES = [name for name in cases("pege") if name != "sched"]


def chosen(case):
    """The selection of a golden case: given uniform numbers, or the smallest errors."""
    if int(case["order"]) == 1:
        return selection_by_error(np.float32(case["p"]))
    return lambda noise: case["U"] < case["p"]


@eager_and_jit
@pytest.mark.parametrize("name", PEGE_CASES)
def test_pege(name, jit):
    """`pege/N`: the grid of n steps over [0, 1], so that a range is 1."""
    case = Case("pege", name)
    n, strength = int(case["n"]), float(case["lam"])
    for weighting in ("ste", "raw", "rms", "ewgs"):
        options = {"strength": strength, "weighting": weighting}
        estimator = STE if weighting == "ste" else Estimator("pege", options)
        quantize = functools.partial(
            fixed_step_size,
            scale=np.float32(1.0 / n),
            grid=Grid(0, n),
            estimator=estimator,
            selection=chosen(case),
        )
        mixed, (dx,) = value_and_gradients(quantize, [case["u"]], case["g"], jit)
        case.check("u_mix", mixed)
        case.check(f"du_{weighting}", dx)
    quantized = np.asarray(fixed_step_size(case["u"], np.float32(1.0 / n), Grid(0, n)))
    case.check("u_q", quantized)
    error = np.clip(case["u"], 0, 1) - quantized
    assert np.mean(np.square(error)) == pytest.approx(float(case["disc_mse"]), rel=1e-4)
    noise = (quantized - np.clip(case["u"], 0, 1)) * n
    np.testing.assert_array_equal(chosen(case)(keras.ops.convert_to_tensor(noise)), case["mask"])


@pytest.mark.parametrize("name", PEGE_CASES)
def test_pege_of_a_tensor_that_is_replaced_altogether(name):
    """`du_rms_all`: every element is pulled."""
    case = Case("pege", name)
    n = int(case["n"])
    estimator = Estimator("pege", {"strength": float(case["lam"])})
    quantize = functools.partial(
        fixed_step_size, scale=np.float32(1.0 / n), grid=Grid(0, n), estimator=estimator
    )
    _, (dx,) = value_and_gradients(quantize, [case["u"]], case["g"])
    case.check("du_rms_all", dx)


def test_all_pege_cases_are_here():
    assert len(PEGE_CASES) == 4


# Choosing.


@pytest.mark.parametrize("draw", [random_selection, random_selection_in_batch])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_chance_takes_its_share_and_all_or_none_at_the_ends(share, draw):
    seed = keras.random.SeedGenerator(1)
    first, second = (np.asarray(draw((100, 80), share, seed)(None)) for _ in range(2))
    # 5 standard deviations of the mean of 8,000 draws
    assert abs(first.mean() - share) <= 5 * np.sqrt(share * (1 - share) / first.size)
    if 0 < share < 1:
        assert (first != second).any()


def test_choices_of_a_batch_are_independent_in_pairs():
    draw = functools.partial(random_selection_in_batch, (2, 3), 0.5, keras.random.SeedGenerator(2))
    taken = np.array([np.asarray(draw()(None)).reshape(-1) for _ in range(2000)], float)
    # standard error of a correlation of 2,000 draws: 0.022
    np.testing.assert_allclose(np.corrcoef(taken.T), np.eye(6), atol=5 * 0.022)


@hypothesis.given(
    st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=9),
    st.sampled_from([Grid(0, 15), Grid(-128, 127), Grid(-1, 1, step=2)]),
)
def test_the_selected_are_codes_to_the_last_bit(ratios, grid):
    ratio = np.float32(ratios)
    everything = random_selection(ratio.shape, 1.0, seed=0)
    quantize = functools.partial(fixed_step_size, scale=np.float32(1.0), grid=grid)
    np.testing.assert_array_equal(quantize(ratio, selection=everything), quantize(ratio))


def test_what_persists_once_taken_stays_taken():
    taken = [
        np.asarray(random_selection((500,), share, seed=3)(None)) for share in (0.2, 0.5, 0.9, 1.0)
    ]
    for fewer, more in itertools.pairwise(taken):
        assert not (fewer & ~more).any()
        assert fewer.sum() < more.sum()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.77, 1.0])
def test_the_smallest_errors_come_first(share):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 30)).astype(np.float32)
    taken = np.asarray(compiled(selection_by_error(np.float32(share)))(noise))
    assert taken.sum() == round(share * noise.size)
    if taken.any() and not taken.all():
        assert np.abs(noise[taken]).max() < np.abs(noise[~taken]).min()


# Quantizers.


def replaced(
    quantizer_type=LSQActivationQuantizer, shape=(None, 6), replacement="random", **options
):
    grid = Grid.for_activations(2, signed=True)
    quantizer = quantizer_type(grid, replacement=replacement, seed=5, **options)
    quantizer.build(shape)
    quantizer.set_scale(0.5)
    return quantizer


X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


@pytest.mark.parametrize("replacement", SELECTIONS)
@pytest.mark.parametrize("kind", ["activations", "fixed_batch", "weights"])
def test_a_share_is_quantized_in_training_and_all_in_inference(replacement, kind):
    quantizer_type = LSQWeightQuantizer if kind == "weights" else LSQActivationQuantizer
    shape = (None, 6) if kind == "activations" else (40, 6)
    quantizer = replaced(quantizer_type, shape, replacement)
    quantizer.replaced_share.assign(0.5)
    inference, training = np.asarray(quantizer(X)), np.asarray(quantizer(X, training=True))
    np.testing.assert_array_equal(inference, np.asarray(quantizer.codes(X)) * np.float32(0.5))
    clipped = np.clip(X, -1.0, 0.5)
    quantized = training == inference
    np.testing.assert_allclose(training[~quantized], clipped[~quantized], rtol=1e-6)
    assert 0.3 < quantized.mean() < 0.9  # clipped values are on the grid either way
    expected = np.mean(((clipped - inference) / 1.5)[: 4 if kind == "activations" else None] ** 2)
    assert float(quantizer.last_error) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("replacement", SELECTIONS)
@pytest.mark.parametrize(
    "quantizer_type",
    [STEActivationQuantizer, STEWeightQuantizer, LSQActivationQuantizer, LSQWeightQuantizer],
)
def test_all_replaced_without_a_pull_is_the_plain_quantizer_to_the_last_bit(
    quantizer_type, replacement
):
    upstream = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    options = {"estimator": Estimator("pege", {"strength": 0.0})}
    found = []
    for quantizer in (
        replaced(quantizer_type, replacement=replacement, **options),
        replaced(quantizer_type, replacement=None),
    ):
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = quantizer(x, training=True)
            loss = tf.reduce_sum(output * upstream)
        variables = [variable.value for variable in quantizer.trainable_variables]
        found.append([output, *tape.gradient(loss, [x, *variables])])
    for mixed, plain in zip(*found, strict=True):
        np.testing.assert_array_equal(mixed, plain)


def test_a_mixture_has_the_gradient_of_its_parts():
    """Of elements left out, the input's gradient is exact, and the step's is 0 but for clipping."""
    share = np.random.default_rng(2).uniform(size=X.shape) < 0.5
    upstream = np.random.default_rng(3).normal(size=X.shape).astype(np.float32)
    grid, scale = Grid(-2, 1), np.float32(0.5)
    estimator = Estimator("ewgs", {"delta": 0.4})
    quantize = functools.partial(
        learned_step_size, grid=grid, estimator=estimator, selection=lambda noise: share
    )
    mixed, (dx, dscale) = value_and_gradients(quantize, [X, scale], upstream)
    ratio = X.astype(np.float64) / scale
    inside = (ratio > -2) & (ratio < 1)
    code = np.where(share, np.rint(np.clip(ratio, -2, 1)), np.clip(ratio, -2, 1))
    passed = upstream * (1 - 0.4 * np.sign(upstream) * np.where(share & inside, code - ratio, 0))
    np.testing.assert_allclose(mixed, code * scale, rtol=1e-6)
    np.testing.assert_allclose(dx, np.where(inside, passed, 0), rtol=1e-5, atol=1e-6)
    expected = np.sum(upstream * code - np.where(inside, passed * ratio, 0))
    assert float(dscale) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("replacement", SELECTIONS)
def test_share_seed_and_pattern_are_saved(replacement, tmp_path):
    inputs = keras.Input((6,))
    quantizer = STEActivationQuantizer(Grid(-2, 1), replacement=replacement, estimator="dsq")
    model = keras.Model(inputs, quantizer(inputs))
    quantizer.set_scale(0.5)
    quantizer.replaced_share.assign(0.25)
    quantizer(X, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[-1]
    assert loaded.estimator == quantizer.estimator
    assert float(loaded.replaced_share) == 0.25
    np.testing.assert_array_equal(loaded(X, training=True), quantizer(X, training=True))


def test_an_unknown_replacement_is_refused():
    with pytest.raises(ValueError, match=r"None or one of \('random', .*Received: 'all'"):
        STEWeightQuantizer(Grid(-2, 1), replacement="all")
