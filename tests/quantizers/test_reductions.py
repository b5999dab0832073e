"""Sums over the elements that share a number."""

import numpy as np
import pytest
import tensorflow as tf

from keras_qat.quantizers.reductions import sum_of_products, sum_to_shape
from tests.golden_vectors import compiled

rng = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 1, 3)])
@pytest.mark.parametrize("jit", [False, True])
def test_a_sum_of_products_is_that_of_the_products(shape, jit):
    one, other = rng.integers(-9, 10, (2, 4, 5, 2, 3)).astype("float32")  # exact in any order
    found = (compiled(sum_of_products) if jit else sum_of_products)(one, other, tf.zeros(shape))
    np.testing.assert_array_equal(found, sum_to_shape(one * other, tf.zeros(shape)))
    assert found.shape == shape


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_are_added_up_in_their_own_type(dtype):
    ones = tf.ones((4, 3), dtype)
    found = sum_of_products(ones, ones, tf.zeros(()))
    assert (found.dtype, float(found)) == (dtype, 12.0)


def test_a_long_sum_is_as_exact_as_it_says():
    one, other = rng.random((2, 2_000_000)).astype("float32")
    exact = np.dot(one.astype("float64"), other)
    # The docstring's 2e-5 on the processor it was measured on; others have blocks of other sizes.
    assert abs(float(sum_of_products(one, other, tf.zeros(()))) - exact) < 1e-4 * exact


def test_no_elements_add_up_to_nothing():
    assert float(sum_of_products(tf.zeros((0, 3)), tf.zeros((0, 3)), tf.zeros(()))) == 0.0
