"""`quantize`: what goes in, what comes out, and every error on the way."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
import tflite_export
from keras_qat.errors import UnsupportedLayerError
from tests.models import images, residual_network
from tests.untouched import untouched

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


def small_network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(3, activation="softmax", name="dense"),
        ],
        name="small",
    )


def data(count=64):
    rng = np.random.default_rng(0)
    return rng.random((count, 8, 8, 1)).astype(np.float32), rng.integers(0, 3, count)


def after_input(*between, shape=(8, 8, 1)):
    """A Functional model of one chain."""
    inputs = x = keras.Input(shape, name="image")
    for layer in between:
        x = layer(x)
    return keras.Model(inputs, x, name="net")


def test_the_readme_example_from_float_model_to_file(tmp_path):
    model = small_network()
    x, y = data(640)
    qmodel = keras_qat.quantize(
        model, keras_qat.LSQConfig(weight_bits=4, activation_bits=4), calibration_data=x[:512]
    )
    qmodel.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = qmodel.fit(x, y, epochs=2, validation_split=0.1, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    report = tflite_export.export(qmodel, tmp_path / "model.tflite", target="litert", samples=x)
    assert report.mismatches == 0
    assert report.compared_elements > 0
    outputs = tflite_export.predict(tmp_path / "model.tflite", x)
    assert np.mean(outputs.argmax(-1) == qmodel.predict(x, verbose=0).argmax(-1)) >= 0.99


def test_the_model_that_is_passed_in_stays_as_it_is():
    model, x = residual_network(), images(16)
    with untouched(model, x):
        qmodel = keras_qat.quantize(model, calibration_data=x)
        qmodel.compile("sgd", "sparse_categorical_crossentropy")
        qmodel.fit(x, np.zeros(16), verbose=0)
    assert not {id(v) for v in qmodel.variables} & {id(v) for v in model.variables}


def test_layer_names_are_kept_and_found():
    model = residual_network()
    qmodel = keras_qat.quantize(model, calibration_data=images(8))
    assert {layer.name for layer in model.layers} <= {layer.name for layer in qmodel.layers}
    assert qmodel.name == model.name
    assert qmodel.get_layer("stem").layer.get_config()["name"] == "stem"


def test_at_8_bits_the_function_is_nearly_that_of_the_float_model():
    """A wrong wiring changes everything; the rounding of 8 bits changes little."""
    model, x = residual_network(), images(64)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    error = np.abs(qmodel.predict(x, verbose=0) - model.predict(x, verbose=0))
    # Eight tensors in a row, each rounded to 1/256 of its range.
    assert error.max() < 8 / 256


@pytest.mark.parametrize("config", [None, "lsq", "ste", keras_qat.STEConfig(weight_bits=4)])
def test_every_way_to_name_a_config(config):
    x, _ = data(8)
    qmodel = keras_qat.quantize(small_network(), config, calibration_data=x)
    ste = config == "ste" or isinstance(config, keras_qat.STEConfig)
    expected = keras_qat.STEWeightQuantizer if ste else keras_qat.LSQWeightQuantizer
    assert type(qmodel.get_layer("conv").weight_quantizer) is expected


def test_a_serialized_config_is_a_config():
    x, _ = data(8)
    config = keras_qat.LSQConfig(weight_bits=3, first_and_last_bits=3)
    serialized = keras.saving.serialize_keras_object(config)
    qmodel = keras_qat.quantize(small_network(), serialized, calibration_data=x)
    assert qmodel.get_layer("conv").weight_quantizer.grid.bits == 3


@pytest.mark.parametrize("config", ["gptq", 8, {"weight_bits": 4}])
def test_an_unknown_config_is_refused(config):
    with pytest.raises(ValueError, match="config must be a QuantizationConfig"):
        keras_qat.quantize(small_network(), config, calibration_data=data(8)[0])


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_labels_and_batches_do_not_change_the_calibration(labelled, batched):
    x, y = data(150)
    samples = (x, y) if labelled else x
    if batched:
        samples = tf.data.Dataset.from_tensor_slices(samples).batch(64)
    model = small_network()
    found, expected = (keras_qat.quantize(model, calibration_data=d) for d in (samples, x))
    for now, then in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "needs calibration_data: a few hundred input samples.*Received: None"),
        (data()[0][:0], "holds no samples"),
        (data()[0][..., 0], r"input 'image' must have shape \(None, 8, 8, 1\)"),
        (np.full((4, 8, 8, 1), np.nan), "'image' holds NaN or infinity"),
        ({"picture": data()[0]}, r"inputs are \['image'\].*\['picture'\]"),
        ((None, data()[1]), r"Labels need their samples.*calibration_data=\(None, labels\)"),
    ],
    ids=["none", "empty", "shape", "nan", "keys", "labels"],
)
def test_calibration_data_that_does_not_fit_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        keras_qat.quantize(small_network(), calibration_data=wrong)


def test_a_model_left_in_float_altogether_is_refused():
    with pytest.raises(
        ValueError, match=r"Nothing of the model .* would be quantized.*'\.\*': None"
    ):
        keras_qat.quantize(small_network(), overrides={".*": None}, calibration_data=data(8)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_name_their_layer(value):
    model = small_network()
    kernel, bias = model.get_layer("dense").get_weights()
    kernel[0, 0] = value
    model.get_layer("dense").set_weights([kernel, bias])
    with pytest.raises(ValueError, match="weights of layer 'dense' hold NaN or infinity"):
        keras_qat.quantize(model, calibration_data=data(8)[0])


def test_values_that_are_not_finite_name_the_layer_behind_which_they_are():
    model = after_input(layers.Conv2D(2, 3), layers.BatchNormalization(name="bn"))
    model.get_layer("bn").moving_variance.assign([-1.0, 1.0])  # finite, with no root
    with pytest.raises(ValueError, match="'bn' yields values that are not finite"):
        keras_qat.quantize(model, calibration_data=data(8)[0])


def subclassed():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    return Subclassed()


def keras_2_model():
    """What tells a Keras 2 model is where its class comes from."""
    return type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})()


def quantized_model():
    return keras_qat.quantize(small_network(), calibration_data=data(8)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Dense(3), "takes a keras.Model. Received: Dense"),
        (lambda: None, "takes a keras.Model. Received: NoneType"),
        (subclassed, "has no weights yet. Call it on a batch of data first"),
        (lambda: keras.Sequential([layers.Dense(3)]), "has no input shape yet"),
        (keras_2_model, r"Keras 2 \(tf_keras\) model. Rebuild it with Keras 3"),
        (quantized_model, "'small' is quantized already"),
    ],
    ids=["layer", "none", "subclassed", "unbuilt", "keras_2", "quantized"],
)
def test_what_is_no_float_model_with_a_graph_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        keras_qat.quantize(make(), calibration_data=data(8)[0])


class Total(layers.Layer):
    """As users write them: Keras cannot copy it."""

    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def call(self, x):
        return keras.ops.cumsum(x, axis=self.axis)


def mine(x):
    return keras.ops.cumsum(x, axis=-1)


def test_one_error_lists_every_layer_without_a_rule_and_the_ways_out():
    model = after_input(
        layers.Conv2D(4, 1, activation=mine, name="conv"),
        layers.Lambda(lambda x: keras.ops.sort(x), name="sorted"),
        Total(1),
        layers.Activation(mine, name="function"),
        layers.Resizing(6, 6, name="resized"),
        layers.Conv2D(4, 1, name="fine"),
    )
    x, _ = data(8)
    with untouched(model, x), pytest.raises(UnsupportedLayerError) as error:
        keras_qat.quantize(model, calibration_data=x)
    message = str(error.value)
    assert "The model 'net' has layers that cannot be quantized" in message
    assert "'conv' (Conv2D): no rule for its activation 'mine'" in message
    assert "'function' (Activation): no rule for its activation 'mine'; take a function" in message
    for name, kind in [
        ("sorted", "Lambda"),
        ("total", "Total"),
        ("resized", "Resizing"),
    ]:
        assert f"'{name}' ({kind}): no rule for this layer" in message
    assert "fine" not in message
    assert "Ways out: replace the layer" in message


def test_a_subclass_that_computes_something_else_is_not_taken_for_a_known_layer():
    class Mine(layers.Conv2D):
        def call(self, inputs):
            return keras.ops.sort(super().call(inputs))

    with pytest.raises(UnsupportedLayerError, match=r"'mine' \(Mine\): no rule for this layer"):
        keras_qat.quantize(after_input(Mine(2, 1, name="mine")), calibration_data=data(8)[0])


def test_raw_operations_are_named_as_such():
    inputs = keras.Input((8, 8, 1), name="image")
    model = keras.Model(inputs, keras.ops.sort(layers.Conv2D(1, 1)(inputs)))
    x, _ = data(8)
    with (
        untouched(model, x),
        pytest.raises(UnsupportedLayerError, match=r"\(Sort\): this raw operation has no"),
    ):
        keras_qat.quantize(model, calibration_data=x)


def add_of_one():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, layers.Add(name="layer")([inputs]))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: after_input(
                layers.MaxPooling2D(2, data_format="channels_first", padding="same", name="layer")
            ),
            "only data_format='channels_last'",
        ),
        (
            lambda: after_input(layers.Conv2DTranspose(4, 3, dilation_rate=2, name="layer")),
            "runtimes have no transposed convolution with a dilation",
        ),
        (
            lambda: after_input(
                layers.Conv2DTranspose(4, (3, 1), strides=2, padding="same", name="layer")
            ),
            "with padding='same' a kernel smaller than the strides",
        ),
        (
            lambda: after_input(
                layers.UpSampling2D((2, 3), interpolation="bilinear", name="layer")
            ),
            "interpolation='bilinear' has a rule for sizes that are powers of two",
        ),
        (
            lambda: after_input(layers.UpSampling2D(2, interpolation="bicubic", name="layer")),
            "interpolation='nearest' and 'bilinear' have a rule, not 'bicubic'",
        ),
        (add_of_one, "it needs two tensors or more, with equal sizes or sizes of 1, not"),
        (
            lambda: after_input(layers.BatchNormalization(axis=1, name="layer")),
            "only the last axis can be normalized",
        ),
        (
            lambda: after_input(layers.AveragePooling2D((17, 16), name="layer"), shape=(40, 40, 1)),
            "an average over 272 values has no rule",
        ),
    ],
    ids=[
        "data_format",
        "dilated",
        "holes",
        "thirds",
        "bicubic",
        "one",
        "axis",
        "window",
    ],
)
def test_what_a_known_layer_cannot_do_is_said(make, reason):
    model = make()
    x = np.zeros((2, *model.inputs[0].shape[1:]), np.float32)
    with pytest.raises(UnsupportedLayerError, match=rf"'layer' \(\w+\): {reason}"):
        keras_qat.quantize(model, calibration_data=x)


def test_names_that_quantize_would_give_may_be_taken():
    model = after_input(
        layers.SeparableConv2D(2, 3, activation="relu", name="a"),
        layers.Conv2D(2, 1, name="a_depthwise"),
        layers.ReLU(name="a_relu"),
        layers.Conv2D(2, 1, name="image_quantizer"),
    )
    x, _ = data(8)
    config = keras_qat.LSQConfig(weight_bits=4)
    qmodel = keras_qat.quantize(model, config, overrides={"a": "ste"}, calibration_data=x)
    names = [layer.name for layer in qmodel.layers]
    assert {"a_depthwise_1", "a_relu_1", "image_quantizer_1"} <= set(names)
    quantizers = [layer.weight_quantizer for layer in map(qmodel.get_layer, ("a", "a_depthwise_1"))]
    assert {type(quantizer) for quantizer in quantizers} == {keras_qat.STEWeightQuantizer}
    assert qmodel.to_integer().outputs == ("image_quantizer",)


def test_a_graph_built_with_keyword_arguments():
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(2, 3, name="conv")(inputs=inputs)
    x = layers.Dropout(0.5)(inputs=x, training=False)
    model = keras.Model(inputs, layers.ReLU(name="relu")(inputs=x))
    qmodel = keras_qat.quantize(model, calibration_data=data(8)[0])
    assert qmodel.to_integer().outputs == ("relu",)
