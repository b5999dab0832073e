"""Layers that compute in float with quantized kernels, layer by layer."""

import keras
import numpy as np
import pytest

from keras_qat.quantized_layers import (
    QuantizeEinsumDense,
    QuantizeEmbedding,
    QuantizeMultiHeadAttention,
)
from keras_qat.quantizers import Grid, STEWeightQuantizer

layers = keras.layers

CASES = {
    "channels at the end": ("abc,cd->abd", (5, 6), (8, 6)),
    "heads and sizes": ("abc,cde->abde", (5, 2, 3), (8, 6)),
    "ellipsis": ("...x,xy->...y", 6, (8, 6)),
    "summed at the end": ("abc,dc->abd", (5, 6), (6, 8)),
    "of one axis each": ("abc,bcd->abd", (5, 6), (5, 8, 6)),
}


def steps(shape=(3, 5, 8)):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def quantizers(count, bits=4):
    return [STEWeightQuantizer(Grid.for_weights(bits), per_channel=True) for _ in range(count)]


def calibrated(wrapper):
    for kernel in wrapper.kernels:
        latent = keras.ops.convert_to_numpy(kernel.channels_last_kernel())
        kernel.weight_quantizer.calibrate_weights(latent)
    return wrapper


def with_quantized_weights(wrapper, *inputs, **options):
    """What the layer yields once its variables hold the quantized kernels."""
    layer = type(wrapper.layer).from_config(wrapper.layer.get_config())
    layer(*inputs, **options)
    layer.set_weights(wrapper.layer.get_weights())
    plain = type(wrapper)(layer, quantizers(len(wrapper.kernels)))
    for own, other in zip(wrapper.kernels, plain.kernels, strict=True):
        latent = own.weight_quantizer(own.channels_last_kernel())
        other.place.latent.assign(own.in_own_layout(latent))
    return layer(*inputs, **options)


@pytest.mark.parametrize("case", CASES)
def test_einsum_dense(case):
    equation, output, channels_last = CASES[case]
    layer = layers.EinsumDense(equation, output, bias_axes=equation[-1], activation="tanh")
    wrapper = QuantizeEinsumDense(layer, quantizers(1))
    wrapper(steps())
    (kernel,) = calibrated(wrapper).kernels
    assert kernel.channels_last_shape() == channels_last
    assert kernel.weight_quantizer.scale.shape == channels_last[-1:]
    np.testing.assert_array_equal(wrapper(steps()), with_quantized_weights(wrapper, steps()))
    assert not np.array_equal(wrapper(steps()), layer(steps()))


def test_embedding():
    x = np.array([[0, 3], [7, 7]], np.int32)
    wrapper = QuantizeEmbedding(layers.Embedding(9, 4), quantizers(1))
    wrapper(x)
    (kernel,) = calibrated(wrapper).kernels
    table = kernel.weight_quantizer(kernel.channels_last_kernel())
    np.testing.assert_array_equal(wrapper(x), np.asarray(table)[x])


@pytest.mark.parametrize("options", [{}, {"use_causal_mask": True}])
def test_attention(options):
    layer = layers.MultiHeadAttention(2, 3, value_dim=4)
    wrapper = QuantizeMultiHeadAttention(layer, quantizers(4))
    query, value = steps((3, 5, 8)), steps((3, 6, 8))
    wrapper(query, value)
    calibrated(wrapper)
    shapes = {kernel.name: kernel.channels_last_shape() for kernel in wrapper.kernels}
    assert shapes == {
        f"{layer.name}/query": (8, 6),
        f"{layer.name}/key": (8, 6),
        f"{layer.name}/value": (8, 8),
        f"{layer.name}/output": (2, 4, 8),
    }
    np.testing.assert_array_equal(
        wrapper(query, value, **options),
        with_quantized_weights(wrapper, query, value, **options),
    )


def test_the_latent_kernel_is_back_whatever_happens():
    layer = layers.EinsumDense("ab,bc->ac", 6)
    wrapper = QuantizeEinsumDense(layer, quantizers(1))
    wrapper(steps((3, 8)))
    latent = layer.kernel
    with pytest.raises(ValueError, match="ndim"):
        wrapper.call(steps((3, 8, 5)))
    assert layer.kernel is latent
    assert [weight.name for weight in layer.trainable_weights] == ["kernel"]


def test_the_integers_are_those_of_the_forward_pass():
    wrapper = QuantizeEinsumDense(layers.EinsumDense("ab,bc->ac", 6, name="up"), quantizers(1, 1))
    wrapper(steps((3, 8)))
    (kernel,) = calibrated(wrapper).kernels
    (weight,) = wrapper.float_weights()
    assert (weight.name, weight.bits, weight.array.values.dtype) == ("up", 1, np.int8)
    assert set(np.unique(weight.array.values)) == {-1, 1}
    expected = kernel.weight_quantizer(kernel.channels_last_kernel())
    np.testing.assert_array_equal(weight.dequantized(), np.moveaxis(expected, -1, 0))


def test_a_wrapper_is_remade_from_its_configuration():
    layer = layers.MultiHeadAttention(2, 3, name="attention", dropout=0.5)
    wrapper = QuantizeMultiHeadAttention(layer, quantizers(4))
    again = QuantizeMultiHeadAttention.from_config(wrapper.get_config())
    assert (again.name, len(again.weight_quantizers)) == ("attention", 4)
    assert again.layer.get_config() == layer.get_config()


def test_dropout_acts_in_training_alone():
    layer = layers.MultiHeadAttention(2, 3, dropout=0.9)
    wrapper = QuantizeMultiHeadAttention(layer, quantizers(4))
    x = steps()
    np.testing.assert_array_equal(wrapper(x, x), wrapper(x, x, training=False))
    first, second = (np.asarray(wrapper(x, x, training=True)) for _ in range(2))
    assert not np.array_equal(first, second)
