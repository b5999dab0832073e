"""Random signs of GDNSQ's gradients: fair, independent, fresh, and of any shape."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_qat.quantized_layers import QuantizeDense
from keras_qat.quantizers import GDNSQActivationQuantizer, GDNSQWeightQuantizer
from keras_qat.quantizers.gdnsq.noise_signs import (
    RankOneSigns,
    random_noise_sign,
    random_rank_one_signs,
    signed_sum,
)
from tests.golden_vectors import compiled

every_channel_count = pytest.mark.parametrize("channels", [1, 3, 17])
DRAWS = 4000
DEVIATIONS = 5.0  # one in two million fair draws is farther out; the seeds are fixed


def draw(channels, seed=0, count=DRAWS):
    signs = np.asarray(random_noise_sign((count // 20, 20, channels), seed=seed))
    assert signs.shape == (count // 20, 20, channels)
    assert signs.dtype == np.float32
    assert set(np.unique(signs)) == {-0.5, 0.5}
    return 2.0 * signs


def assert_zero_mean(products):
    """Products of fair and independent signs are fair signs too."""
    assert abs(products.mean()) < DEVIATIONS / np.sqrt(products.size)


@every_channel_count
def test_every_channel_is_fair(channels):
    signs = draw(channels).reshape(-1, channels)
    assert_zero_mean(signs)
    for channel in signs.T:
        assert_zero_mean(channel)


@every_channel_count
def test_neighbours_are_independent(channels):
    signs = draw(channels)
    for axis, size in enumerate(signs.shape):
        for distance in {1, 2, 16} & set(range(size)):
            first = np.take(signs, range(size - distance), axis)
            assert_zero_mean(first * np.take(signs, range(distance, size), axis))


def test_any_two_channels_are_independent():
    signs = draw(32).reshape(-1, 32)
    correlation = signs.T @ signs / len(signs)
    np.testing.assert_array_equal(np.diag(correlation), 1.0)
    assert np.abs(correlation - np.eye(32)).max() < DEVIATIONS / np.sqrt(DRAWS)


@every_channel_count
def test_a_seed_repeats_itself_and_a_generator_does_not(channels):
    np.testing.assert_array_equal(draw(channels, seed=3), draw(channels, seed=3))
    generators = [keras.random.SeedGenerator(3) for _ in range(2)]
    first, other = ([draw(channels, seed=g) for _ in range(2)] for g in generators)
    np.testing.assert_array_equal(first, other)
    assert_zero_mean(first[0] * first[1])


@pytest.mark.parametrize("shape", [(7,), (2, 0, 5), (1, 1, 1, 1)])
def test_signs_have_the_shape_asked_for(shape):
    assert tuple(random_noise_sign(shape, seed=0).shape) == shape


def every_sign(product):
    """All signs of a batch, (examples, features), as +-1."""
    return 2.0 * np.asarray(product.examples) * np.asarray(product.features).T


def test_signs_of_a_batch_are_fair_and_any_two_are_independent():
    """Over many draws; of a small batch, so that every pair of its signs can be looked at."""
    generator = keras.random.SeedGenerator(1)
    draws = [every_sign(random_rank_one_signs((3, 2, 5), generator)) for _ in range(400)]
    signs = np.reshape(draws, (400, -1))
    np.testing.assert_array_equal(np.abs(signs), 1.0)
    far = DEVIATIONS / np.sqrt(len(signs))
    assert np.abs(signs.mean(axis=0)).max() < far
    assert np.abs(signs.T @ signs / len(signs) - np.eye(30)).max() < far


def test_the_sum_with_a_product_is_that_with_its_signs_one_by_one():
    values = np.random.default_rng(0).normal(size=(6, 3, 3, 5)).astype(np.float32)
    product = random_rank_one_signs(values.shape, seed=keras.random.SeedGenerator(4))
    signs = (every_sign(product) / 2.0).reshape(values.shape).astype(np.float32)
    parameter = np.zeros((), np.float32)
    one_by_one = float(signed_sum(values, signs, parameter))
    # Both add the same 270 float32 numbers of size 1, in another order.
    assert float(signed_sum(values, product, parameter)) == pytest.approx(one_by_one, abs=1e-4)


def test_sizes_may_be_unknown():
    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
    def signed(values):
        return signed_sum(values, random_rank_one_signs(keras.ops.shape(values), 0), tf.zeros(()))

    assert abs(float(signed(tf.ones((2, 4, 5, 3))))) <= 60.0


@pytest.mark.parametrize("channels", [1, 17])
def test_a_batch_of_unknown_size_is_drawn_inside_a_compiled_function(channels):
    quantizer = GDNSQActivationQuantizer(4, seed=5)
    quantizer.build((None, 6, channels))
    signature = [tf.TensorSpec((None, 6, channels), tf.float32)]
    function = tf.function(quantizer.draw_noise_sign, input_signature=signature)
    drawn = [function(tf.zeros((size, 6, channels))) for size in (2, 400, 400)]
    assert [tuple(signs.examples.shape) for signs in drawn] == [(2, 1), (400, 1), (400, 1)]
    assert all(tuple(signs.features.shape) == (6 * channels, 1) for signs in drawn)
    assert_zero_mean(2.0 * np.asarray(drawn[1].examples))
    assert_zero_mean(4.0 * np.asarray(drawn[1].examples) * np.asarray(drawn[2].examples))
    eager = random_noise_sign((40, 6, channels), seed=9)
    np.testing.assert_array_equal(
        compiled(lambda: random_noise_sign((40, 6, channels), seed=9))(), eager
    )


def test_a_wrapped_layer_draws_for_its_kernel_in_training_only():
    quantizer = GDNSQWeightQuantizer(2, per_channel=True, seed=0)
    wrapper = QuantizeDense(keras.layers.Dense(3), quantizer)
    x = np.ones((2, 5), np.float32)
    wrapper(x)
    start = np.array(quantizer.seed_generator.state)
    wrapper(x, training=False)
    np.testing.assert_array_equal(quantizer.seed_generator.state, start)
    outputs = [np.asarray(wrapper(x, training=True))]
    once = np.array(quantizer.seed_generator.state)
    outputs.append(np.asarray(wrapper(x, training=True)))
    assert np.any(once != start)
    assert np.any(np.asarray(quantizer.seed_generator.state) != once)
    np.testing.assert_array_equal(*outputs)  # signs are in gradients only


def test_every_layer_of_a_model_draws_signs_of_its_own():
    quantizers = [GDNSQActivationQuantizer(4) for _ in range(2)]
    for quantizer in quantizers:
        quantizer.build((None, 16))
    x = np.zeros((400, 16), np.float32)
    first, second = (quantizer.draw_noise_sign(x) for quantizer in quantizers)
    assert isinstance(first, RankOneSigns)
    assert_zero_mean(4.0 * np.asarray(first.examples) * np.asarray(second.examples))
