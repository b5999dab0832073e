"""The decorator through which gradients are stated."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_qat.quantizers.custom_gradient import as_tensor, custom_gradient


@custom_gradient
def tripled(x, y):
    """The forward says x * y, the gradient something else: only the latter may count."""
    return x * y, lambda upstream: (3.0 * upstream, 5.0 * upstream)


WAYS = {
    "eager": lambda f: f,
    "graph": tf.function,
    "jit": lambda f: tf.function(f, jit_compile=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_stated_gradient_is_used_and_scaled_by_upstream(way):
    @WAYS[way]
    def gradients(x, y):
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            output = 2.0 * tripled(x, y)
        return output, *tape.gradient(output, [x, y])

    output, dx, dy = gradients(tf.constant([1.0, 2.0]), tf.constant([4.0, 4.0]))
    np.testing.assert_array_equal(output, [8.0, 16.0])
    np.testing.assert_array_equal(dx, [6.0, 6.0])
    np.testing.assert_array_equal(dy, [10.0, 10.0])


@pytest.mark.parametrize("way", WAYS)
def test_variables_are_read_and_get_the_gradient(way):
    x, y = keras.Variable([1.0, 2.0]), keras.Variable([4.0, 4.0])

    @WAYS[way]
    def gradients():
        with tf.GradientTape() as tape:
            output = tripled(x, y)
        return tape.gradient(output, [x.value, y.value])

    dx, dy = gradients()
    np.testing.assert_array_equal(dx, [3.0, 3.0])
    np.testing.assert_array_equal(dy, [5.0, 5.0])


def test_a_backward_pass_computes_nothing_before_its_upstream_gradient_is_there():
    @custom_gradient
    def function(x):
        return 2.0 * x, lambda upstream: (upstream * keras.ops.exp(x),)

    @tf.function
    def gradient(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = function(x)
        return tape.gradient(output, x, output_gradients=upstream)

    vector = tf.TensorSpec([2], "float32")
    graph = gradient.get_concrete_function(vector, vector).graph
    (exp,) = (op for op in graph.get_operations() if op.type == "Exp")
    assert graph.inputs[1].op in _ancestors(exp)
    np.testing.assert_allclose(gradient(tf.zeros(2), tf.constant([3.0, 4.0])), [3.0, 4.0])


def _ancestors(op):
    found, waiting = set(), [op]
    while waiting:
        op = waiting.pop()
        before = [tensor.op for tensor in op.inputs] + list(op.control_inputs)
        waiting += [each for each in before if each not in found]
        found.update(before)
    return found


def test_the_function_keeps_its_name_and_its_words():
    assert tripled.__name__ == "tripled"
    assert tripled.__doc__.startswith("The forward says")


def test_as_tensor_reads_a_variable_once():
    variable = keras.Variable([1.0])
    tensor = as_tensor(variable)
    variable.assign([2.0])
    np.testing.assert_array_equal(tensor, [1.0])
    np.testing.assert_array_equal(as_tensor([1, 2]), [1, 2])
