"""Random whole numbers: uniform, fresh where they shall be, and the same compiled or not."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_qat.quantizers.random_integers import draw_integers

DEVIATIONS = 5.0  # one in two million fair draws is farther out; the seeds are fixed


@pytest.mark.parametrize("end", [2, 3, 256, 1 << 24])
def test_draws_are_uniform(end):
    draws = np.asarray(draw_integers((60_000,), end, seed=3), np.float64)
    assert draws.min() >= 0
    assert draws.max() < end
    parts = min(end, 4)  # of equal size: every end is a multiple of them
    found = np.bincount((draws * parts // end).astype(int), minlength=parts)
    expected = draws.size / parts
    assert np.abs(found - expected).max() < DEVIATIONS * np.sqrt(expected)
    mean = (end - 1) / 2
    deviation = np.sqrt((end**2 - 1) / 12 / draws.size)
    assert abs(draws.mean() - mean) < DEVIATIONS * deviation


def signs(seed):
    return 2.0 * np.asarray(draw_integers((4096,), 2, seed)) - 1.0


def test_calls_of_a_generator_and_neighbouring_seeds_are_independent():
    """Also where one is the other moved on: their counters run side by side."""
    generator = keras.random.SeedGenerator(11)
    found = [signs(generator) for _ in range(4)] + [signs(seed) for seed in (0, 1, 2)]
    for one, other in itertools.combinations(found, 2):
        for shift in (0, 1, 4):
            product = np.roll(one, shift) * other
            assert abs(product.mean()) < DEVIATIONS / np.sqrt(product.size)


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**40 + 3])
def test_a_number_gives_the_same_draws_in_every_call(seed):
    expected = draw_integers((5, 6), 1000, seed)
    np.testing.assert_array_equal(draw_integers((5, 6), 1000, seed), expected)
    assert np.any(np.asarray(draw_integers((5, 6), 1000, seed + 1)) != expected)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "jit"])
def test_a_compiled_function_draws_what_eager_code_does(jit):
    eager, traced = (keras.random.SeedGenerator(4) for _ in range(2))

    @tf.function(jit_compile=jit)
    def draw():
        return draw_integers((3, 700), 256, traced)

    for _ in range(3):
        np.testing.assert_array_equal(draw(), draw_integers((3, 700), 256, eager))


def test_one_size_may_be_unknown():
    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def draw(x):
        return draw_integers((keras.ops.shape(x)[0], 7), 2, seed=0)

    assert tuple(draw(tf.zeros((5, 3))).shape) == (5, 7)
