"""What every quantizer keeps, over one list of quantizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

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
from keras_qat.quantizers.grid import round_to_codes


def on_a_grid(of_weights, of_activations):
    """A function `(kind, bits, **kwargs)` for quantizers that are told their grid."""

    def new(kind, bits, **kwargs):
        if kind.startswith("weights"):
            grid = Grid.for_weights(bits)
            return of_weights(grid, per_channel=kind == "weights_per_channel", **kwargs)
        return of_activations(Grid.for_activations(bits, signed=kind == "signed"), **kwargs)

    return new


def gdnsq(kind, bits, **kwargs):
    if kind.startswith("weights"):
        return GDNSQWeightQuantizer(bits, per_channel=kind == "weights_per_channel", **kwargs)
    return GDNSQActivationQuantizer(bits, signed=kind == "signed", **kwargs)


def dorefa(kind, bits, **kwargs):
    """DoReFa's weights, PACT's activations."""
    if kind.startswith("weights"):
        return DoReFaQuantizer(bits, per_channel=kind == "weights_per_channel", **kwargs)
    return PACTQuantizer(Grid.for_activations(bits, signed=kind == "signed"), **kwargs)


def waveq(kind, bits, **kwargs):
    """WaveQ's weights, PACT's activations."""
    if not kind.startswith("weights") or bits == 8:
        return dorefa(kind, bits, **kwargs)
    per_channel = kind == "weights_per_channel"
    return WaveQWeightQuantizer(bits, per_channel=per_channel, **kwargs)


QUANTIZERS = {
    "ste": on_a_grid(STEWeightQuantizer, STEActivationQuantizer),
    "lsq": on_a_grid(LSQWeightQuantizer, LSQActivationQuantizer),
    "dorefa": dorefa,
    "waveq": waveq,
    "gdnsq": gdnsq,
}
KINDS = ["weights_per_channel", "weights_per_tensor", "unsigned", "signed"]
BITS = range(1, 9)
CHANNELS = 5

every_quantizer = pytest.mark.parametrize("method", QUANTIZERS)
# Others have their own tests: test_integer_grids.py, test_dorefa_and_pact.py.
every_quantizer_on_a_fixed_grid = pytest.mark.parametrize("method", ["ste", "lsq"])
every_kind = pytest.mark.parametrize("kind", KINDS)
every_width = pytest.mark.parametrize("bits", BITS)
# XLA compiles each case: the narrowest, the widest and two between stand for all.
some_widths = pytest.mark.parametrize("bits", [1, 2, 4, 8])


def make(method, kind, bits, **kwargs):
    quantizer = QUANTIZERS[method](kind, bits, **kwargs)
    quantizer.build((4, 3, CHANNELS))
    rng = np.random.default_rng(bits)
    quantizer.set_scale(rng.uniform(0.05, 0.4, quantizer.scale.shape))
    if hasattr(quantizer, "scale_ratio"):
        quantizer.scale_ratio.assign(
            rng.uniform(0.8, 1.2, quantizer.scale_ratio.shape).astype(np.float32)
        )
    return quantizer


def samples(quantizer, seed=0):
    """Values on, between and beyond the codes, ties included."""
    rng = np.random.default_rng(seed)
    scale = np.asarray(quantizer.scale)
    if isinstance(quantizer, GDNSQWeightQuantizer):
        return (kernel_in_codes(quantizer, rng) * scale).astype(np.float32)
    if isinstance(quantizer, DoReFaQuantizer):  # evenly between its ends, no matter the scale
        squashed = np.linspace(-0.95, 0.95, 400 * 3).reshape(400, 3, 1)  # no tie among them
        return np.arctanh(squashed + np.zeros(CHANNELS)).astype(np.float32)
    reach = 1.5 * max(abs(quantizer.grid.qmin), quantizer.grid.qmax)
    steps = rng.uniform(-reach, reach, (400, 3, CHANNELS))
    ramp = np.arange(quantizer.grid.qmin - 2, quantizer.grid.qmax + 2, 0.5)
    steps.reshape(-1, CHANNELS)[: len(ramp)] = ramp[:, None]
    return (steps * scale).astype(np.float32)


def kernel_in_codes(quantizer, rng):
    """A kernel whose range has the levels of the target, in units of its scale.

    The grid follows the range: there is no beyond. Per channel, ranges in half steps lie to one
    side of zero, down to codes from zero on.
    """
    stride = 2 if quantizer.half_steps else 1
    levels = 2**quantizer.target_bits - (not quantizer.half_steps)
    reach = stride * (levels - 1) / 2
    ramp = np.linspace(-reach, reach, 2 * levels - 1)
    steps = rng.uniform(-reach, reach, (400, 3, CHANNELS))
    steps.reshape(-1, CHANNELS)[: len(ramp)] = ramp[:, None]
    if quantizer.half_steps and quantizer.per_channel:
        steps += reach * np.array([-1, 1, 0, 0.4, -0.7])
    return steps


def compiled(function):
    return tf.function(function, jit_compile=True)


@every_width
@every_kind
@every_quantizer
def test_E1_codes_times_scale_is_the_output_exactly(method, kind, bits):
    quantizer = make(method, kind, bits)
    x = samples(quantizer)
    codes = np.asarray(quantizer.codes(x))
    np.testing.assert_array_equal(quantizer.qparams().dequantize(codes), quantizer(x))
    assert set(np.unique(codes)) <= set(
        range(quantizer.grid.qmin, quantizer.grid.qmax + 1, quantizer.grid.step)
    )
    symmetric = kind.startswith("weights") and bits >= (7 if method == "gdnsq" else 8)
    for channel in np.moveaxis(codes, -1, 0):
        assert len(np.unique(channel)) == 2**bits - symmetric


@some_widths
@every_kind
@every_quantizer
def test_E1_holds_under_jit(method, kind, bits):
    quantizer = make(method, kind, bits)
    x = samples(quantizer)
    codes, values = compiled(quantizer.codes)(x), compiled(quantizer)(x)
    np.testing.assert_array_equal(quantizer.qparams().dequantize(codes), values)
    np.testing.assert_array_equal(values, quantizer(x))


@pytest.mark.parametrize("kind", ["unsigned", "signed"])
@every_quantizer
def test_E1_holds_for_averages(method, kind):
    quantizer = make(method, kind, 4)
    x = samples(quantizer)
    codes = np.asarray(quantizer.codes(x, pooled=True))
    expected = quantizer.qparams().dequantize(codes)
    np.testing.assert_array_equal(expected, quantizer(x, pooled=True))


@every_width
@every_quantizer
def test_zero_is_exactly_on_every_activation_grid(method, bits):
    for kind in ("signed", "unsigned"):
        quantizer = make(method, kind, bits)
        assert np.all(np.asarray(quantizer(np.zeros((2, 3, CHANNELS), np.float32))) == 0)


def gradients(quantizer, x, upstream, wrap):
    """d sum(output * upstream) / d (x, scale ratio)."""
    variables = quantizer.trainable_variables

    def step(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(quantizer(x) * upstream)
        return tape.gradient(loss, [x, *(v.value for v in variables)])

    return [np.asarray(g) for g in wrap(step)(tf.constant(x), tf.constant(upstream))]


def expected_gradients(quantizer, x, upstream):
    """The docstring's formulas in float64."""
    scale = np.asarray(quantizer.scale, np.float64)
    v = x.astype(np.float64) / scale
    inside = (v > quantizer.grid.qmin) & (v < quantizer.grid.qmax)
    expected = [upstream * inside]
    if isinstance(quantizer, LSQWeightQuantizer | LSQActivationQuantizer):
        codes = np.asarray(quantizer.codes(x), np.float64)
        slope = upstream * (codes - v * inside)
        total = slope.sum(axis=(0, 1) if np.ndim(scale) else None)
        elements = 4 * 3 * (1 if np.ndim(scale) else CHANNELS)
        total /= np.sqrt(elements * max(quantizer.grid.qmax, 1))
        expected.append(total * np.asarray(quantizer.calibrated_scale))
    return expected


@pytest.mark.parametrize("wrap", [lambda f: f, compiled], ids=["eager", "jit"])
@some_widths
@every_kind
@every_quantizer_on_a_fixed_grid
def test_gradient_formula(method, kind, bits, wrap):
    quantizer = make(method, kind, bits)
    x = samples(quantizer) + np.float32(1e-3)  # off the clamp edges, where float32 decides
    upstream = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    actual = gradients(quantizer, x, upstream, wrap)
    expected = expected_gradients(quantizer, x, upstream)
    assert len(actual) == len(expected)
    np.testing.assert_array_equal(actual[0], expected[0].astype(np.float32))
    for got, want in zip(actual[1:], expected[1:], strict=True):
        # A float32 sum of 6,000 terms of magnitude up to qmax.
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 4])
@every_kind
@every_quantizer
def test_saved_and_loaded_is_bit_equal(method, kind, bits, tmp_path):
    inputs = keras.Input((3, CHANNELS))
    quantizer = make(method, kind, bits)
    model = keras.Model(inputs, quantizer(inputs))
    x = samples(quantizer)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.layers[-1].grid == quantizer.grid
    assert loaded.layers[-1].get_config() == quantizer.get_config()


@every_kind
@every_quantizer
def test_mixed_float16_leaves_scales_untouched(method, kind):
    reference = make(method, kind, 4)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((3, CHANNELS), dtype="float16")
        quantizer = make(method, kind, 4)
        model = keras.Model(inputs, quantizer(inputs))
        x = samples(reference).astype(np.float16)
        outputs = model(x)
    finally:
        keras.config.set_dtype_policy(before)
    assert outputs.dtype == "float32"
    np.testing.assert_array_equal(quantizer.qparams().scale, reference.qparams().scale)
    np.testing.assert_array_equal(outputs, reference(x.astype(np.float32)))


@every_quantizer_on_a_fixed_grid
def test_a_grid_travels_as_a_plain_dict(method):
    quantizer = make(method, "signed", 3)
    clone = type(quantizer).from_config(quantizer.get_config())
    assert clone.grid == Grid(-4, 3)


@pytest.mark.parametrize("estimator", ["ste", "pege"])
@every_quantizer
@pytest.mark.parametrize("bits", [1, 4])
def test_what_is_never_negative_trains_alike_without_a_clamp_below(method, bits, estimator):
    """Above zero, where a ReLU has a gradient; with part of the elements replaced, too."""
    generator = np.random.default_rng(bits)
    x = tf.constant(generator.exponential(size=(16, 32)).astype(np.float32))
    upstream = tf.constant(generator.normal(size=(16, 32)).astype(np.float32))
    found = []
    for never_negative in (False, True):
        options = {"estimator": estimator, "replacement": "persistent", "seed": 3}
        quantizer = QUANTIZERS[method]("unsigned", bits, **options)
        quantizer.build((None, 32))
        quantizer.set_scale(2.0**-bits)
        quantizer.replaced_share.assign(0.5)
        quantizer.never_negative = never_negative
        with tf.GradientTape() as tape:
            tape.watch(x)
            x_hat = quantizer(x, training=True)
        gradients = tape.gradient(x_hat, [x, *quantizer.trainable_variables], upstream)
        found.append((x_hat, gradients))
    (x_hat, expected), (found_x_hat, gradients) = found
    np.testing.assert_array_equal(found_x_hat, x_hat)
    for gradient, other in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(gradient, other)


def floor(ratio, grid):
    """A rounding that no runtime does: down, to a code of the grid."""
    steps = ops.floor((ops.clip(ratio, grid.qmin, grid.qmax) - grid.qmin) / grid.step)
    return steps * grid.step + grid.qmin


@some_widths
@every_kind
@every_quantizer
def test_the_rounding_that_it_is_told_is_the_one_that_it_does(method, kind, bits):
    quantizer = make(method, kind, bits)
    x = quantizer.prepare(samples(quantizer))
    np.testing.assert_array_equal(
        quantizer.fake_quantize(x, round_to_codes), quantizer(samples(quantizer))
    )
    if isinstance(quantizer, GDNSQWeightQuantizer):
        grid = quantizer.weight_grid(x)
        steps = np.floor(np.clip(grid.position(x), 0.0, grid.steps))
        expected = (steps * grid.stride + grid.lowest) * grid.unit
    else:
        expected = floor(x / quantizer.scale, quantizer.grid) * quantizer.scale
    found = quantizer.fake_quantize(x, floor)
    np.testing.assert_array_equal(found, expected)
    assert np.any(np.asarray(found) != quantizer.fake_quantize(x, round_to_codes))


def test_free_weights_are_rounded_as_told_too():
    quantizer = GDNSQWeightQuantizer(3, offset="free")
    quantizer.build((40, CHANNELS))
    kernel = np.random.default_rng(0).normal(size=(40, CHANNELS)).astype(np.float32)
    quantizer.set_scale(0.25)
    found = np.asarray(quantizer.fake_quantize(kernel, floor))
    step, low = np.float32(quantizer.step), kernel.min()
    np.testing.assert_allclose(found, np.floor((kernel - low) / step) * step + low, atol=1e-6)


FOR_WEIGHTS = ("calibrate_weights", "largest_code", "learned_bits", "deployed_codes", "per_channel")
FOR_ACTIVATIONS = ("calibrate", "accumulators", "never_negative")


@every_kind
@every_quantizer
def test_a_quantizer_has_what_its_kind_is_for_and_no_more(method, kind):
    quantizer = make(method, kind, 4)
    of_weights = kind.startswith("weights")
    assert isinstance(quantizer, WeightQuantizer) == of_weights
    assert isinstance(quantizer, ActivationQuantizer) != of_weights
    assert [hasattr(quantizer, name) for name in FOR_WEIGHTS] == [of_weights] * len(FOR_WEIGHTS)
    assert not any(of_weights == hasattr(quantizer, name) for name in FOR_ACTIVATIONS)
    assert ("code_regularization" in quantizer.get_config()) == of_weights


@pytest.mark.parametrize("base", [WeightQuantizer, ActivationQuantizer])
def test_the_bases_say_what_a_quantizer_must_implement(base):
    quantizer = base(Grid(-2, 1))
    with pytest.raises(NotImplementedError, match=f"{base.__name__} must implement fake_quantize"):
        quantizer.fake_quantize(np.zeros(3), round_to_codes)
