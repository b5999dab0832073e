"""What every wrapper keeps: the layer's own function, its name, its variables."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.integer import ops
from keras_qat.quantized_layers import (
    QuantizeConv1D,
    QuantizeConv1DTranspose,
    QuantizeConv2D,
    QuantizeConv2DTranspose,
    QuantizeDense,
    QuantizeDepthwiseConv1D,
    QuantizeDepthwiseConv2D,
    QuantizeWrapper,
)
from keras_qat.quantizers import Grid, LSQWeightQuantizer, STEWeightQuantizer, WeightQuantizer
from tests.models import images

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers

CASES = {
    "conv2d": (QuantizeConv2D, layers.Conv2D, {"filters": 5, "kernel_size": 3}),
    "conv2d_all": (
        QuantizeConv2D,
        layers.Conv2D,
        {"filters": 5, "kernel_size": (3, 2), "strides": 2, "padding": "same"},
    ),
    "conv2d_dilated": (
        QuantizeConv2D,
        layers.Conv2D,
        {"filters": 5, "kernel_size": 3, "dilation_rate": 2, "use_bias": False},
    ),
    "depthwise": (QuantizeDepthwiseConv2D, layers.DepthwiseConv2D, {"kernel_size": 3}),
    "depthwise_all": (
        QuantizeDepthwiseConv2D,
        layers.DepthwiseConv2D,
        {"kernel_size": 3, "depth_multiplier": 2, "strides": 2, "padding": "same"},
    ),
    "conv2d_groups": (
        QuantizeConv2D,
        layers.Conv2D,
        {"filters": 6, "kernel_size": 3, "groups": 3},
    ),
    "conv1d_causal": (
        QuantizeConv1D,
        layers.Conv1D,
        {"filters": 5, "kernel_size": 3, "dilation_rate": 2, "padding": "causal"},
    ),
    "conv1d": (QuantizeConv1D, layers.Conv1D, {"filters": 5, "kernel_size": 3, "strides": 2}),
    "depthwise1d": (
        QuantizeDepthwiseConv1D,
        layers.DepthwiseConv1D,
        {"kernel_size": 3, "depth_multiplier": 2},
    ),
    "transpose": (
        QuantizeConv2DTranspose,
        layers.Conv2DTranspose,
        {"filters": 5, "kernel_size": (3, 2), "strides": 2, "padding": "same"},
    ),
    "transpose1d": (
        QuantizeConv1DTranspose,
        layers.Conv1DTranspose,
        {"filters": 5, "kernel_size": 3, "strides": 2, "output_padding": 1},
    ),
    "dense": (QuantizeDense, layers.Dense, {"units": 5}),
    "dense_without_bias": (QuantizeDense, layers.Dense, {"units": 5, "use_bias": False}),
}
SHAPES = {
    layers.Conv1D: (8, 3),
    layers.Conv1DTranspose: (8, 3),
    layers.DepthwiseConv1D: (8, 3),
    layers.Dense: (4,),
}
OPS = {
    QuantizeConv1D: ops.Conv2D,
    QuantizeConv1DTranspose: ops.TransposeConv2D,
    QuantizeConv2D: ops.Conv2D,
    QuantizeConv2DTranspose: ops.TransposeConv2D,
    QuantizeDepthwiseConv1D: ops.DepthwiseConv2D,
    QuantizeDepthwiseConv2D: ops.DepthwiseConv2D,
    QuantizeDense: ops.FullyConnected,
}
every_case = pytest.mark.parametrize("case", CASES)


class Transparent(WeightQuantizer):
    """Passes everything through."""

    def fake_quantize(self, x, rounding, selection=None):
        return x


def wrapped(case, quantizer=None, **arguments):
    """A wrapper with weights as after training, and inputs for it."""
    wrapper_type, layer_type, own = CASES[case]
    x = images(6, SHAPES.get(layer_type, (8, 8, 3)))
    quantizer = quantizer or STEWeightQuantizer(Grid.for_weights(4), per_channel=True)
    wrapper = wrapper_type(layer_type(**own, name="layer", **arguments), quantizer)
    wrapper(x)
    if wrapper.layer.use_bias:
        wrapper.layer.bias.assign(np.random.default_rng(0).normal(size=wrapper.layer.bias.shape))
    if quantizer.per_channel:
        quantizer.set_scale(np.linspace(0.02, 0.08, quantizer.scale.shape[0], dtype=np.float32))
    return wrapper, x


@every_case
def test_with_a_transparent_quantizer_it_is_the_layer(case):
    wrapper, x = wrapped(case, Transparent(Grid.for_weights(8)))
    np.testing.assert_array_equal(wrapper(x), wrapper.layer(x))


@every_case
def test_it_is_the_layer_with_the_dequantized_codes_as_kernel(case):
    wrapper, x = wrapped(case)
    kernel = wrapper.layer.kernel
    quantizer = wrapper.weight_quantizer
    real = quantizer.qparams().dequantize(wrapper.weight_codes())
    outputs = wrapper(x)
    latent = kernel.numpy()
    kernel.assign(wrapper.in_own_layout(real))
    np.testing.assert_array_equal(outputs, wrapper.layer(x))
    assert np.any(latent != kernel.numpy())


@every_case
def test_it_takes_the_name_of_the_layer_and_its_output_shape(case):
    wrapper, x = wrapped(case)
    assert wrapper.name == "layer"
    assert wrapper.compute_output_shape(x.shape) == wrapper.layer(x).shape
    assert wrapper.weight_codes().shape[-1] == wrapper(x).shape[-1]


@every_case
def test_lowering_states_the_codes_the_scales_and_the_bias(case):
    wrapper, _ = wrapped(case)
    pending = wrapper.lower("source")
    assert pending.sources == ("source",)
    pending = getattr(pending, "inner", pending)
    assert pending.op is OPS[type(wrapper)]
    channels = np.moveaxis(pending.codes, pending.channel_axis, -1)
    learned = wrapper.weight_codes()
    assert sorted(channels.ravel()) == sorted(learned.ravel())
    np.testing.assert_array_equal(
        channels.reshape(-1, learned.shape[-1]).sum(axis=0),
        learned.reshape(-1, learned.shape[-1]).sum(axis=0),
    )
    np.testing.assert_array_equal(pending.scale, wrapper.weight_quantizer.qparams().scale)
    bias = wrapper.layer.bias.numpy() if wrapper.layer.use_bias else np.zeros(learned.shape[-1])
    np.testing.assert_array_equal(pending.bias, bias)


def test_a_scale_for_the_whole_kernel_serves_every_channel():
    quantizer = STEWeightQuantizer(Grid.for_weights(4))
    wrapper = QuantizeDense(layers.Dense(3), quantizer)
    wrapper(images(2, (4,)))
    quantizer.set_scale(0.25)
    np.testing.assert_array_equal(wrapper.lower("x").scale, [0.25, 0.25, 0.25])


@every_case
def test_saved_and_loaded_is_bit_equal(case, tmp_path):
    wrapper, x = wrapped(case, LSQWeightQuantizer(Grid.for_weights(3), per_channel=True))
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, wrapper(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    copy = loaded.layers[-1]
    assert type(copy) is type(wrapper)
    assert copy.layer.get_config() == wrapper.layer.get_config()
    assert copy.weight_quantizer.get_config() == wrapper.weight_quantizer.get_config()


@every_case
def test_arithmetic_follows_the_layers_policy_and_the_scales_do_not(case):
    quantizer = LSQWeightQuantizer(Grid.for_weights(4), per_channel=True)
    wrapper, x = wrapped(case, quantizer, dtype="mixed_float16")
    assert wrapper(x).dtype == "float16"
    assert {variable.dtype for variable in wrapper.variables} == {"float32"}


@pytest.mark.parametrize("frozen", ["layer", "wrapper", "none"])
def test_a_frozen_layer_is_frozen_with_its_scales(frozen):
    layer = layers.Dense(3, trainable=frozen != "layer")
    wrapper = QuantizeDense(layer, LSQWeightQuantizer(Grid.for_weights(4)))
    model = keras.Sequential([keras.Input((4,)), wrapper])
    if frozen == "wrapper":
        wrapper.trainable = False
    assert len(model.trainable_variables) == (3 if frozen == "none" else 0)
    wrapper.trainable = True
    assert len(model.trainable_variables) == 3


def test_frozen_scales_survive_the_config():
    layer = layers.Dense(3, trainable=False)
    wrapper = QuantizeDense(layer, LSQWeightQuantizer(Grid.for_weights(4)))
    clone = QuantizeDense.from_config(wrapper.get_config())
    model = keras.Sequential([keras.Input((4,)), clone])
    assert model.trainable_variables == []


def test_regularizers_and_constraints_act_on_the_latent_kernel():
    layer = layers.Dense(
        3, kernel_regularizer=keras.regularizers.L2(0.5), kernel_constraint="non_neg"
    )
    wrapper = QuantizeDense(layer, STEWeightQuantizer(Grid.for_weights(2)))
    model = keras.Sequential([keras.Input((4,)), wrapper])
    kernel = layer.kernel.numpy()
    # Another order of the same float32 sum.
    np.testing.assert_allclose(model.losses, [0.5 * np.sum(kernel**2)], rtol=1e-5)
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 4)), -np.ones((2, 3)), verbose=0)
    assert layer.kernel.numpy().min() >= 0


def test_the_base_says_what_a_wrapper_must_implement():
    wrapper = QuantizeWrapper(layers.Dense(3), STEWeightQuantizer(Grid.for_weights(4)))
    with pytest.raises(NotImplementedError, match=r"QuantizeWrapper must implement forward"):
        wrapper.forward(None, None)
    with pytest.raises(NotImplementedError, match=r"QuantizeWrapper must implement lower"):
        wrapper.lower("x")


def test_an_activity_regularizer_still_counts():
    inputs = keras.Input((6, 6, 2))
    outputs = keras.layers.Conv2D(3, 3, activity_regularizer="l2", name="conv")(inputs)
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype(np.float32)
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=x)
    qmodel(x)
    assert float(qmodel.losses[0]) > 0.0
