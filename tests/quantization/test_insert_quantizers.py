"""Where quantizers sit, and that nothing else changes."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.config import QuantizationConfig
from keras_qat.keras_graph import input_name
from keras_qat.quantization.insert_quantizers import insert_quantizers
from keras_qat.quantization.plan import PlannedGrid
from keras_qat.quantization.planning import prepare
from keras_qat.quantizers import (
    ActivationQuantizer,
    Grid,
    Quantizer,
    SoftmaxRounding,
    WeightQuantizer,
)
from tests.models import images, randomize, residual_network
from tests.quantization.passes.alone import decompose_separable, split_activations
from tests.untouched import untouched

layers = keras.layers


class _Transparent(Quantizer):
    """Passes everything through."""

    def fake_quantize(self, x, rounding, selection=None):
        return x


class TransparentWeights(_Transparent, WeightQuantizer):
    pass


class TransparentActivations(_Transparent, ActivationQuantizer):
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransparentConfig(QuantizationConfig):
    def weight_quantizer(self, bits):
        return TransparentWeights(Grid.for_weights(bits), name="weight_quantizer")

    def activation_quantizer(self, bits, signed, name):
        return TransparentActivations(Grid.for_activations(bits, signed), name=name)

    def input_quantizer(self, bits, signed, name):
        return self.activation_quantizer(bits, signed, name)


@dataclasses.dataclass
class Site:
    quantizer: Quantizer
    grid: PlannedGrid


def inserted(model, config=None, signed=True):
    """The model with quantizers, of a model whose weight layers are linear."""
    config = config or keras_qat.LSQConfig()
    prepared = prepare(model, config, None, None, unsupported=True)
    signs = {input_name(tensor): signed for tensor in model.inputs}
    grids = tuple(grid.with_sign(signs) for grid in prepared.plan.grids)
    plan = dataclasses.replace(prepared.plan, grids=grids)
    result, quantizers = insert_quantizers(prepared.rules, plan)
    return result, [Site(*each) for each in zip(quantizers, grids, strict=True)]


def stack(*between, shape=(6, 6, 3)):
    return keras.Sequential([keras.Input(shape, name="image"), *between])


def names(model):
    return [layer.name for layer in model.layers]


def test_nothing_but_the_quantizers_changes_the_function():
    model = residual_network()
    x = images(8)
    normalized = decompose_separable(split_activations(model))
    normalized = keras.Model(normalized.input, normalized.get_layer("head").output)
    with untouched(normalized, x):
        result, _ = inserted(normalized, TransparentConfig())
    assert sum(isinstance(layer, TransparentActivations) for layer in result.layers) == 8
    np.testing.assert_array_equal(result(x), normalized(x))


def test_convolution_normalization_and_relu_are_one_tensor():
    model = stack(
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.ReLU(name="relu"),
    )
    result, sites = inserted(model)
    assert names(result) == ["image", "image_quantizer", "conv", "bn", "relu", "relu_quantizer"]
    assert [site.grid.is_input for site in sites] == [True, False]
    (planned,) = sites[1].grid.tensors
    assert planned.members == ("conv", "bn", "relu")
    assert sites[1].quantizer.grid == Grid(0, 255)


def test_a_tensor_with_two_readers_is_on_a_grid_before_both():
    inputs = keras.Input((6, 6, 3), name="image")
    conv = layers.Conv2D(3, 1, name="conv")(inputs)
    relu, other = layers.ReLU(name="relu")(conv), layers.Conv2D(3, 1, name="other")(conv)
    model = keras.Model(inputs, layers.Add(name="add")([relu, other]))
    result, _ = inserted(model)
    readers = {"relu", "other"}
    for layer in result.layers:
        if layer.name in readers:
            assert layer.input is result.get_layer("conv_quantizer").output
    quantizers = {name for name in names(result) if name.endswith("quantizer")}
    assert quantizers == {"image_quantizer", "conv_quantizer", "other_quantizer", "add_quantizer"}


def test_a_tensor_that_is_an_output_and_read_is_on_a_grid():
    inputs = keras.Input((6, 6, 3), name="image")
    conv = layers.Conv2D(3, 1, name="conv")(inputs)
    model = keras.Model(inputs, [conv, layers.ReLU(name="relu")(conv)])
    result, _ = inserted(model)
    assert [layer.name for layer in result.layers if isinstance(layer, Quantizer)] == [
        "image_quantizer",
        "conv_quantizer",
    ]
    assert result.outputs[0] is result.get_layer("conv_quantizer").output


def test_add_and_the_relu_behind_it_are_one_tensor():
    inputs = keras.Input((6, 6, 3), name="image")
    total = layers.Add(name="add")([inputs, layers.Conv2D(3, 1, name="conv")(inputs)])
    _, sites = inserted(keras.Model(inputs, layers.ReLU(name="relu")(total)))
    assert [site.quantizer.name for site in sites] == [
        "image_quantizer",
        "conv_quantizer",
        "relu_quantizer",
    ]
    assert sites[-1].quantizer.grid.qmin == 0


def test_a_normalization_behind_a_sum_is_a_tensor_of_its_own():
    inputs = keras.Input((6, 6, 3), name="image")
    total = layers.Add(name="add")([inputs, inputs])
    _, sites = inserted(keras.Model(inputs, layers.BatchNormalization(name="bn")(total)))
    assert [site.quantizer.name for site in sites] == [
        "image_quantizer",
        "add_quantizer",
        "bn_quantizer",
    ]


@pytest.mark.parametrize(
    "layer",
    [
        layers.MaxPooling2D(2, name="layer"),
        layers.Flatten(name="layer"),
        layers.Reshape((4, 27), name="layer"),
        layers.ZeroPadding2D(1, name="layer"),
        layers.Dropout(0.5, name="layer"),
        layers.ReLU(name="layer"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_keep_the_grid_need_no_quantizer(layer):
    result, sites = inserted(stack(layer))
    assert names(result) == ["image", "image_quantizer", "layer"]
    assert len(sites) == 1


@pytest.mark.parametrize(
    "layer", [layers.AveragePooling2D(2, name="layer"), layers.ReLU(6.0, name="layer")]
)
def test_layers_that_leave_the_grid_are_put_back_on_it_by_its_own_quantizer(layer):
    result, sites = inserted(stack(layer))
    assert names(result) == ["image", "image_quantizer", "layer"]
    quantizer = result.get_layer("image_quantizer")
    assert len(quantizer._inbound_nodes) == 2
    assert result.outputs[0]._keras_history.operation is quantizer
    assert len(sites) == 1


@pytest.mark.parametrize("size", [6, 2])
def test_a_mean_of_everything_has_a_grid_of_its_own(size):
    result, sites = inserted(stack(layers.AveragePooling2D(size, name="pool")))
    assert len(sites) == (2 if size == 6 else 1)
    assert ("pool_quantizer" in names(result)) == (size == 6)


def test_a_softmax_head_rounds_as_the_runtimes_do():
    model = stack(layers.Dense(3, name="dense"), layers.Softmax(name="probs"), shape=(4,))
    result, sites = inserted(model)
    assert names(result)[2:] == ["dense", "dense_quantizer", "probs", "probs_quantizer"]
    assert isinstance(result.layers[-1], SoftmaxRounding)
    assert [site.quantizer.name for site in sites] == ["image_quantizer", "dense_quantizer"]


@pytest.mark.parametrize("signed", [True, False])
def test_signs_follow_the_data_and_the_layers(signed):
    inputs = keras.Input((6, 6, 3), name="image")
    pooled = layers.GlobalAveragePooling2D(name="mean")(inputs)
    total = layers.Add(name="add")([pooled, pooled])
    outputs = layers.Dense(2, name="dense")(total)
    _, sites = inserted(keras.Model(inputs, outputs), signed=signed)
    lowest = {site.quantizer.name: site.quantizer.grid.qmin for site in sites}
    low = -128 if signed else 0
    assert lowest == {
        "image_quantizer": low,
        "mean_quantizer": low,
        "add_quantizer": low,
        "dense_quantizer": -128,
    }


def test_a_shared_layer_stays_shared_and_each_call_has_its_own_output_grid():
    inputs, conv = keras.Input((6, 6, 3), name="image"), layers.Conv2D(3, 1, name="conv")
    model = randomize(keras.Model(inputs, conv(conv(inputs))))
    result, sites = inserted(model)
    assert [site.quantizer.name for site in sites] == [
        "image_quantizer",
        "conv_quantizer",
        "conv_quantizer_1",
    ]
    assert [layer.name for layer in result.layers].count("conv") == 1
    np.testing.assert_array_equal(result.get_layer("conv").layer.kernel, conv.kernel)


def test_weights_and_statistics_are_copied():
    model = residual_network()
    normalized = decompose_separable(split_activations(model))
    result, _ = inserted(normalized)
    for layer in normalized.layers:
        copy = result.get_layer(layer.name)
        for now, then in zip(
            getattr(copy, "layer", copy).get_weights(), layer.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(now, then)
