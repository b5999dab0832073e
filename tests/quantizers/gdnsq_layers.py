"""Calibrated layers of GDNSQ, and what their tests read off them."""

import numpy as np
import pytest
import tensorflow as tf

from keras_qat.quantizers import GDNSQActivationQuantizer, GDNSQWeightQuantizer
from keras_qat.quantizers.initial_scale import Histogram

CHANNELS = 4
every_target = pytest.mark.parametrize("bits", range(1, 9))
every_offset = pytest.mark.parametrize("offset", ["snapped", "free"])


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kernel():
    return normal(0, 3, 3, 8, CHANNELS) * np.float32([0.1, 1, 5, 0.02])


def weights(bits=4, values=None, per_channel=True, **options):
    """A calibrated quantizer of weights."""
    quantizer = GDNSQWeightQuantizer(bits, per_channel=per_channel, seed=1, **options)
    values = kernel() if values is None else values
    quantizer.build(values.shape)
    quantizer.calibrate_weights(values)
    return quantizer


def histogram(low, high):
    return Histogram(np.array([low, high]), np.array([1.0, 1.0]), low, high)


def activations(bits=4, low=-1.3, high=2.2, signed=True, **options):
    """A calibrated quantizer of activations."""
    quantizer = GDNSQActivationQuantizer(bits, signed=signed, seed=1, **options)
    quantizer.build((None, CHANNELS))
    quantizer.calibrate(histogram(low, high))
    return quantizer


def either(kind, bits=4, **options):
    """A quantizer, values for it, and the arguments of what reads a kernel."""
    if kind == "weights":
        return weights(bits, **options), kernel(), (kernel(),)
    return activations(bits, **options), 2 * normal(1, 50, CHANNELS), ()


def set_log_scale(quantizer, log_scale):
    """Of a quantizer whose rate is 1; the range of activations stays."""
    if isinstance(quantizer, GDNSQActivationQuantizer):
        log_scale = [log_scale, quantizer.log_range]
    quantizer._logarithms.assign(np.float32(log_scale))


both = pytest.mark.parametrize("kind", ["weights", "activations"])


def state(quantizer):
    """Every variable but the seed's."""
    return [
        np.array(variable)
        for variable in quantizer.weights
        if "seed_generator" not in variable.path
    ]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def gradients(quantizer, x, upstream, training=False):
    """Of `sum(quantizer(x) * upstream)` for `x`, each logarithm, and the offset if there is one."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(quantizer(x, training=training) * upstream)
    variables = [variable.value for variable in quantizer.trainable_variables]
    dx, logarithms, *offset = map(np.asarray, tape.gradient(loss, [x, *variables]))
    activations = isinstance(quantizer, GDNSQActivationQuantizer)
    return [dx, *(logarithms if activations else [logarithms]), *offset]
