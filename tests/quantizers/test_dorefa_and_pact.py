"""DoReFa's weights and PACT's activations against their formulas."""

import numpy as np
import pytest
import tensorflow as tf

from keras_qat.quantizers import DoReFaQuantizer, Grid, PACTQuantizer

eager_and_jit = pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def value_and_gradients(quantizer, x, upstream, jit):
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = quantizer(x)
            loss = tf.reduce_sum(output * upstream)
        variables = [variable.value for variable in quantizer.trainable_variables]
        return output, *tape.gradient(loss, [x, *variables])

    step = tf.function(step, jit_compile=True) if jit else step
    return [np.asarray(each) for each in step(tf.constant(x))]


@eager_and_jit
@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "per_tensor"])
@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8])
def test_dorefa(bits, per_channel, jit):
    kernel, upstream = normal(0, 3, 3, 8, 4) * np.float32([0.1, 1, 3, 0.02]), normal(1, 3, 3, 8, 4)
    quantizer = DoReFaQuantizer(bits, per_channel=per_channel)
    quantizer.build(kernel.shape)
    quantizer.calibrate_weights(kernel)
    output, dw = value_and_gradients(quantizer, kernel, upstream, jit)
    axes = (0, 1, 2) if per_channel else None
    largest = np.abs(kernel).max(axis=axes)
    w = np.tanh(kernel.astype(np.float64))
    normalised = w / np.abs(w).max(axis=axes)
    steps = 254 if bits == 8 else 2**bits - 1
    levels = 2 * np.rint(steps * (normalised + 1) / 2) / steps - 1
    near_a_tie = np.abs(steps * (normalised + 1) / 2 % 1 - 0.5) < 1e-4
    np.testing.assert_allclose(output[~near_a_tie], (largest * levels)[~near_a_tie], rtol=1e-5)
    expected = upstream * largest * (1 - w**2) / np.abs(w).max(axis=axes)
    ends = np.abs(normalised) > 1 - 1e-6  # there float32 decides whether a weight is clipped
    assert 1 <= ends.sum() < 8
    # 1 - tanh**2 in float32, where tanh is almost 1
    np.testing.assert_allclose(dw[~ends], expected[~ends], rtol=1e-4, atol=1e-5)


def test_dorefa_uses_all_its_levels_and_no_zero_point():
    kernel = np.random.default_rng(2).uniform(-1, 1, (3, 3, 256, 4)).astype(np.float32)
    for bits in range(1, 9):
        quantizer = DoReFaQuantizer(bits, per_channel=True)
        quantizer.build(kernel.shape)
        quantizer.calibrate_weights(kernel)
        codes = np.asarray(quantizer.codes(kernel))
        assert np.abs(codes).max() <= 127
        assert len(np.unique(codes)) == (255 if bits == 8 else 2**bits)
        assert np.asarray(quantizer(0 * kernel)).shape == kernel.shape
        assert np.isfinite(quantizer(0 * kernel)).all()


@eager_and_jit
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_pact(signed, jit):
    x, upstream = 2 * normal(3, 50, 6), normal(4, 50, 6)
    quantizer = PACTQuantizer(Grid.for_activations(3, signed))
    quantizer.build((None, 6))
    quantizer.set_scale(0.25)
    output, dx, dratio = value_and_gradients(quantizer, x, upstream, jit)
    low, high = quantizer.grid.qmin, quantizer.grid.qmax
    ratio = x.astype(np.float64) / 0.25
    inside = (ratio > low) & (ratio < high)
    code = np.rint(np.clip(ratio, low, high))
    np.testing.assert_array_equal(output, 0.25 * code)
    np.testing.assert_array_equal(dx, np.where(inside, upstream, 0))
    expected = 0.25 * np.sum(upstream * np.where(inside, 0, code))
    assert float(dratio) == pytest.approx(expected, rel=1e-5)
