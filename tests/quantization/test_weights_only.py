"""`activation_bits=None` in a config or in an override: what is planned, between which grids."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.quantizers import LoweringError, PutsOnGrid
from tests.models import images
from tflite_export import export

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

layers = keras.layers
W1A32 = keras_qat.LSQConfig(weight_bits=1, activation_bits=None)
W4A4 = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)


def chain():
    """Three convolutions, each with a BatchNormalization and a ReLU, and a head."""
    x = inputs = keras.Input((6, 6, 3), name="image")
    for name in ("first", "middle", "last"):
        x = layers.Conv2D(3, 3, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def quantized(config, overrides=None, model=None):
    model = chain() if model is None else model
    x = images(16, model.inputs[0].shape[1:])
    return keras_qat.quantize(model, config, overrides=overrides, calibration_data=x)


def grid_bits(qmodel):
    """The bits of every grid of an activation, by the layer before it."""
    return {
        layer.name.removesuffix("_quantizer"): layer.bits
        for layer in qmodel.layers
        if isinstance(layer, PutsOnGrid)
    }


def weight_bits(qmodel):
    return {layer.name: layer.weight_bits for layer in qmodel.plan.layers if layer.weight_bits}


def ops_of(qmodel):
    return {op.output: type(op).__name__ for op in qmodel.to_integer().ops}


def test_one_layer_computes_in_float_with_its_weights_on_a_grid():
    """Between a grid of the config's `add_bits` and one of its `input_bits`, as without weights."""
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4, add_bits=7)
    qmodel = quantized(config, {"middle": W1A32})
    assert grid_bits(qmodel) == {
        "image": 8,
        "first_relu": 7,
        "middle": 8,
        "middle_relu": 4,
        "last_relu": 4,
        "pool": 8,
        "head": 8,
    }
    assert weight_bits(qmodel) == {"first": 8, "middle": 1, "last": 4, "head": 8}
    assert ops_of(qmodel)["middle"] == "FloatPart"
    plain = quantized(config, {"middle": None})
    assert grid_bits(plain) == grid_bits(qmodel)
    assert "middle" not in weight_bits(plain)


def test_one_layer_with_its_batch_normalization_and_relu_is_one_part():
    qmodel = quantized(W4A4, {"middle.*": W1A32})
    assert "middle" not in grid_bits(qmodel)
    (part,) = (op for op in qmodel.to_integer().ops if type(op).__name__ == "FloatPart")
    assert part.layers == ("middle", "middle_bn", "middle_relu")
    assert [weight.name for weight in part.weights] == ["middle"]


def test_the_last_layer_yields_float32():
    """An override of `None` keeps the grid of the output; a config without activation bits not."""
    qmodel = quantized(W4A4, {"head": W1A32})
    assert "head" not in grid_bits(qmodel)
    assert ops_of(qmodel)["head"] == "FloatResult"
    assert quantized(W4A4, {"head": None}).to_integer().tensors["head"].on_grid


def test_the_first_layer_reads_its_input_as_it_is_where_the_input_is_named_too():
    assert quantized(W4A4, {"first": W1A32}).to_integer().tensors["image"].on_grid
    qmodel = quantized(W4A4, {"image|first": W1A32})
    assert qmodel.to_integer().tensors["image"].dtype == "float32"


def test_an_input_without_a_grid_before_a_quantized_layer_is_refused():
    with pytest.raises(ValueError, match="'image' is left in float, and a quantized layer reads"):
        quantized(W4A4, {"image": W1A32})
    quantized(W4A4)  # the way out: drop the override of the input


def test_one_layer_on_grids_in_a_model_in_float():
    """Its inputs have a grid of the config's `input_bits`, its output one of its own bits."""
    config = keras_qat.LSQConfig(weight_bits=1, activation_bits=None, input_bits=6)
    qmodel = quantized(config, {"middle.*": W4A4})
    assert grid_bits(qmodel) == {"first_relu": 6, "middle_relu": 4}
    kinds = list(ops_of(qmodel).values())
    assert kinds == ["FloatPart", "Maximum", "Conv2D", "FloatResult"]  # 6 bits need a clamp
    qmodel = quantized(config, {"first.*": W4A4})
    assert grid_bits(qmodel) == {"image": 6, "first_relu": 4}


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        (W1A32, {"middle.*": W4A4}),
        (W4A4, {"middle": W1A32}),
        (W4A4, {"middle.*": W1A32}),
        (W4A4, {"head": W1A32}),
        (W4A4, {"image|first.*": W1A32}),
        (W1A32, {"first": W4A4}),
        (W1A32, {"head": W4A4}),
        (W1A32, {"middle.*": None}),
        (W4A4, {".*": W1A32}),
    ],
)
@pytest.mark.parametrize("io_dtype", ["int8", "float32"])
def test_every_mixture_is_proven(config, overrides, io_dtype, tmp_path):
    qmodel = quantized(config, overrides)
    report = export(
        qmodel,
        tmp_path / "net.tflite",
        samples=images(16, (6, 6, 3)),
        io_dtype=io_dtype,
        min_argmax_agreement=0.0,
        verbose=False,
    )
    assert report.mismatches == 0
    assert keras_qat.plan(chain(), config, overrides=overrides).layers  # without data, too


def test_all_layers_left_in_float_are_refused():
    with pytest.raises(ValueError, match="Nothing of the model"):
        quantized(W1A32, {".*": None})


def two_heads():
    """Two outputs behind one trunk, which is an output itself."""
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="trunk")(inputs)
    y = layers.Conv2D(4, 3, name="neck")(x)
    left = layers.Dense(3, name="left")(layers.GlobalAveragePooling2D(name="mean")(y))
    right = layers.Dense(1, name="right")(layers.GlobalMaxPooling2D(name="most")(y))
    still = layers.Dropout(0.5, name="still")(x)
    return keras.Model(inputs, [left, right, x, still])


def test_layers_that_several_outputs_need_are_in_the_file_once(tmp_path):
    qmodel = quantized(W1A32, model=two_heads())
    x = images(16, (6, 6, 3))
    report = export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert {part.name: part.layers for part in report.float_parts} == {
        "trunk": ("trunk", "trunk_relu"),
        "neck": ("neck",),
        "left": ("mean", "left"),
        "right": ("most", "right"),
        "still": ("still",),
    }
    codes = qmodel.layer_codes(x)
    names = ("left", "right", "trunk", "still")
    for name, expected in zip(names, qmodel.predict(x, verbose=0), strict=True):
        np.testing.assert_array_equal(codes[name], expected)
    found = {each.name: each.relative for each in report.comparison.float_outputs}
    assert found.keys() == set(names)
    assert max(found.values()) < 2.0**-16  # the order of float32 sums


@keras.saving.register_keras_serializable("tests")
class Wave(layers.Layer):
    """A layer without weights that has no rule, and does something else in training."""

    def call(self, x, training=False):
        return keras.ops.sin(2.0 * x if training else x)


@keras.saving.register_keras_serializable("tests")
class Product(layers.Layer):
    """A weight layer that has no rule."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.tanh(self.kernel))


@keras.saving.register_keras_serializable("tests")
def bent(x):
    return x + keras.ops.sin(x)


def with_own(layer):
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(3, 3, activation=bent, name="conv")(inputs)
    x = layer(keras.ops.cos(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten(name="flat")(x)))


def test_what_has_no_weights_needs_no_rule(tmp_path):
    model = with_own(Wave(name="wave"))
    qmodel = quantized(W1A32, model=model)
    x = images(16, (6, 6, 3))
    assert qmodel.plan == keras_qat.plan(model, W1A32, calibration_data=x)
    assert weight_bits(qmodel) == {"conv": 8, "head": 8}
    assert not np.array_equal(qmodel(x, training=True), qmodel(x))  # it is not taken apart
    report = export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.comparison.float_outputs[0].relative < 2.0**-16  # the order of float32 sums
    tables = quantized(W4A4, model=model)  # between grids each function is a table
    assert "conv_bent" in {layer.name for layer in tables.layers}
    assert not np.array_equal(tables(x, training=True), tables(x))


def test_weights_without_a_rule_are_refused_and_may_stay_in_float():
    model = with_own(Product(name="product"))
    with pytest.raises(keras_qat.UnsupportedLayerError, match=r"(?s)'product' .*its name: None"):
        quantized(W1A32, model=model)
    qmodel = quantized(W1A32, {"product": None}, model=model)
    assert weight_bits(qmodel) == {"conv": 8, "head": 8}


def test_a_constant_matrix_may_be_a_kernel():
    inputs = keras.Input((6,), name="numbers")
    x = keras.ops.matmul(layers.Dense(4, name="dense")(inputs), np.ones((4, 2), np.float32))
    with pytest.raises(keras_qat.UnsupportedLayerError, match=r"'matmul.*this raw operation"):
        quantized(W1A32, model=keras.Model(inputs, x))


def test_whole_numbers_enter_as_they_are(tmp_path):
    inputs = keras.Input((6, 6, 3), name="image", dtype="uint8")
    x = layers.Conv2D(3, 3, name="conv")(layers.Rescaling(1 / 255, name="scaled")(inputs))
    model = keras.Model(inputs, layers.Flatten(name="flat")(x))
    x = np.random.default_rng(0).integers(0, 256, (16, 6, 6, 3), dtype=np.uint8)
    qmodel = keras_qat.quantize(model, W1A32, calibration_data=x)
    assert qmodel.to_integer().tensors["image"].dtype == "int32"
    report = export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.comparison.float_outputs[0].relative < 2.0**-16  # the order of float32 sums


def test_unmet_widths_are_refused_at_export():
    config = keras_qat.GDNSQConfig(weight_bits=1, activation_bits=None)
    qmodel = quantized(config)
    with pytest.raises(LoweringError, match="layer 'first' have learned"):
        qmodel.to_integer()
    assert qmodel.planned_integer().outputs == ("head",)
