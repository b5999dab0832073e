"""A model that computes as TFLite Micro: what `evaluate` sees is what the device answers."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.quantized_layers import QuantizeWrapper
from tests.models import dense_network, images, points, randomize, residual_network
from tests.seams import assert_no_mismatch, target_flips

layers = keras.layers
pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

X = images(32, (12, 12, 3))
TWO_BITS = keras_qat.LSQConfig(weight_bits=2, activation_bits=2)


def every_kind_of_op():
    """Convolutions of all kinds, sums, products, means, pools, tables, a PReLU and a softmax."""
    inputs = keras.Input((12, 12, 3), name="image")
    x = stem = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(8, 3)(inputs)))
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, stem]))
    x = layers.PReLU(keras.initializers.Constant(-0.2), shared_axes=(1, 2))(
        layers.Conv2D(8, 3, groups=2, padding="same", strides=2)(x)
    )
    x = layers.Subtract()([x, layers.AveragePooling2D(2)(stem)])
    gate = layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 8))(gate)])
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(4, 2, activation="tanh")(x)
    x = layers.Conv1D(6, 3, padding="causal")(layers.Reshape((11, 44))(x))
    x = layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling1D()(x))
    return randomize(keras.Model(inputs, x))


def quantized(model=None, config=TWO_BITS, x=X):
    return keras_qat.quantize(model or residual_network(), config, calibration_data=x)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_op_computes_the_codes_of_the_file(bits):
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)
    qmodel = quantized(every_kind_of_op(), config)
    assert target_flips(qmodel, X, "tflm")  # as before, by one rounding
    qmodel.compute_as("tflm")
    assert qmodel.computes_as == "tflm"
    assert target_flips(qmodel, X, "tflm") == {}
    qmodel.compute_as("tflm", weight_storage="int4")
    assert target_flips(qmodel, X, "tflm", "int4") == {}
    qmodel.compute_as("litert")
    assert target_flips(qmodel, X, "litert") == {}


@pytest.mark.parametrize("taps", [600, 9000, pytest.param(70_000, marks=pytest.mark.slow)])
def test_sums_beyond_float32_are_exact(taps):
    """In one product where they are small, in two or in float64 where they are not."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((taps,), name="numbers")
    model = keras.Model(inputs, layers.Dense(4, name="dense")(inputs))
    x = rng.uniform(0.0, 1.0, (16, taps)).astype(np.float32)
    for kernel in (rng.normal(size=(taps, 4)), np.abs(rng.normal(size=(taps, 4)))):
        model.get_layer("dense").set_weights([kernel, np.zeros(4)])
        qmodel = quantized(model, keras_qat.LSQConfig(weight_bits=8, activation_bits=8), x)
        qmodel.compute_as("tflm")
        assert target_flips(qmodel, x, "tflm") == {}


def test_dead_and_pruned_channels_have_the_numbers_of_the_file():
    model = residual_network()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            gamma[0], gamma[1], beta[1] = 0.0, 1e-9, 50.0
            layer.set_weights([gamma, beta, mean, variance])
        elif isinstance(layer, layers.Conv2D):
            kernel, *bias = layer.get_weights()
            kernel[..., 2] = 0.0
            layer.set_weights([kernel, *bias])
    qmodel = quantized(model)
    qmodel.compute_as("tflm")
    assert target_flips(qmodel, X, "tflm") == {}


def test_the_choice_is_saved_and_cloned_and_adds_no_variables(tmp_path):
    qmodel = quantized()
    count = len(qmodel.variables)
    qmodel.save_weights(tmp_path / "before.weights.h5")
    qmodel.compute_as("tflm", weight_storage="int4")
    assert len(qmodel.variables) == count
    expected = qmodel.predict(X, verbose=0)
    qmodel.save(tmp_path / "model.keras")
    clone = keras.models.clone_model(qmodel)
    clone.set_weights(qmodel.get_weights())
    for other in (keras_qat.load_model(tmp_path / "model.keras"), clone):
        assert other.computes_as == "tflm, weights as int4"
        np.testing.assert_array_equal(other.predict(X, verbose=0), expected)
        other.load_weights(tmp_path / "before.weights.h5")
        np.testing.assert_array_equal(other.predict(X, verbose=0), expected)


def test_the_target_of_quantize_is_computed():
    assert quantized().computes_as == "litert"
    qmodel = keras_qat.quantize(residual_network(), TWO_BITS, calibration_data=X, target="tflm")
    assert qmodel.computes_as == "tflm"


def test_grids_without_integers_infer_in_float_and_say_so():
    qmodel = quantized(config=keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2))
    before = qmodel.predict(X, verbose=0)
    qmodel.compute_as("tflm")
    assert qmodel.computes_as.startswith("tflm, in float so far: ")
    np.testing.assert_array_equal(qmodel.predict(X, verbose=0), before)
    for width in qmodel.learned_widths:
        width.narrow()
    assert qmodel.computes_as == "tflm"
    assert target_flips(qmodel, X, "tflm") == {}
    np.testing.assert_array_equal(qmodel.predict(X, verbose=0), qmodel(X))


def shared_normalization(chained=False):
    """Two convolutions before one BatchNormalization; behind one of them another comes first."""
    inputs = keras.Input((12, 12, 3), name="image")
    left, right = (layers.Conv2D(4, 3, name=name)(inputs) for name in ("left", "right"))
    if chained:
        left = layers.BatchNormalization(name="own")(left)
    shared = layers.BatchNormalization(name="shared")
    x = layers.Add()([layers.ReLU()(shared(left)), layers.ReLU()(shared(right))])
    return randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x)))


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("bits", [2, 8])
def test_layers_that_share_a_normalization_compute_it_together(bits, chained, tmp_path):
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)
    qmodel = quantized(shared_normalization(chained), config)
    qmodel.compute_as("tflm")
    assert qmodel.computes_as == "tflm"
    assert target_flips(qmodel, X, "tflm") == {}
    assert_no_mismatch(qmodel, X, "tflm", tmp_path / "net.tflite")
    expected = qmodel.predict(X, verbose=0)
    part = keras_qat.QuantizedModel(qmodel.input, qmodel.get_layer("right").output)
    assert part.computes_as == "tflm"
    np.testing.assert_array_equal(qmodel.predict(X, verbose=0), expected)
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), expected)


def test_a_normalization_that_one_of_its_layers_cannot_compute_is_in_float():
    inputs = keras.Input((12, 12, 3), name="image")
    shared, own = (layers.BatchNormalization(name=name) for name in ("shared", "own"))
    left = shared(own(layers.Conv2D(4, 3, name="left")(inputs)))
    x = layers.Add()([layers.ReLU()(left), layers.ReLU()(shared(layers.Conv2D(4, 3)(inputs)))])
    x = layers.Conv2D(4, 1, name="last")(layers.ReLU()(shared(layers.ReLU()(x))))
    qmodel = quantized(randomize(keras.Model(inputs, x)))
    before = qmodel.predict(X, verbose=0)
    qmodel.compute_as("tflm")
    assert "in float so far: " in qmodel.computes_as
    # The second rounding moves a few codes. Without a map, nearly all would move.
    assert np.mean(qmodel.predict(X, verbose=0) != before) < 0.2


def test_layers_that_share_a_normalization_wait_for_the_last_of_them():
    config = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2)
    qmodel = quantized(shared_normalization(), config)
    for width in qmodel.learned_widths:
        in_float = qmodel.predict(X, verbose=0)
        qmodel.compute_as("tflm")
        found = qmodel.predict(X, verbose=0)
        assert np.mean(np.abs(found - in_float) > 1e-5) < 0.1  # what has integers rounds twice
        qmodel.compute_as("litert")
        width.narrow()
    qmodel.compute_as("tflm")
    assert qmodel.computes_as == "tflm"
    assert target_flips(qmodel, X, "tflm") == {}


def large_mean(pooling):
    inputs = keras.Input((36, 36, 3), name="image")
    x = pooling(layers.Conv2D(4, 3, name="conv")(inputs))
    qmodel = quantized(keras.Model(inputs, x), x=images(8, (36, 36, 3)))
    qmodel.compute_as("tflm")
    return qmodel


def test_a_mean_of_a_large_window_is_named():
    qmodel = large_mean(layers.AveragePooling2D(34, name="mean"))
    assert qmodel.computes_as == "tflm, in float so far: mean_quantizer"


def test_a_mean_of_a_window_runs_op_by_op():
    """Outside of a traced graph, TensorFlow asks of a custom gradient that it reads no variable."""
    inputs = keras.Input((12, 12, 3), name="image")
    pooled = layers.AveragePooling2D(12, name="mean")(inputs)
    qmodel = quantized(keras.Model(inputs, layers.Dense(4)(pooled)))
    qmodel.compute_as("tflm")
    np.testing.assert_array_equal(qmodel(X, training=False), qmodel.predict(X, verbose=0))


@pytest.mark.parametrize("keepdims", [False, True])
def test_a_global_mean_sums_codes_of_any_image(keepdims):
    """The float mean would not tell the sums of so many pixels apart."""
    qmodel = large_mean(layers.GlobalAveragePooling2D(keepdims=keepdims, name="mean"))
    assert qmodel.computes_as == "tflm"
    assert target_flips(qmodel, images(200, (36, 36, 3)), "tflm") == {}
    assert qmodel.get_layer("mean").keepdims == keepdims


def test_a_shared_branch_computes_both_of_its_calls():
    inputs = [keras.Input((12, 12, 3), name=name) for name in ("a", "b")]
    conv, norm = layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="norm")
    branches = [layers.ReLU()(norm(conv(each))) for each in inputs]
    model = randomize(keras.Model(inputs, layers.Add()(branches)))
    x = {"a": X, "b": 0.5 * X}
    qmodel = quantized(model, x=x)
    qmodel.compute_as("tflm")
    assert qmodel.computes_as == "tflm"
    assert target_flips(qmodel, x, "tflm") == {}


def test_mixed_precision_computes_the_same_codes():
    with_policy = residual_network_in("mixed_float16")
    qmodel = quantized(with_policy)
    qmodel.compute_as("tflm")
    assert target_flips(qmodel, X, "tflm") == {}


def residual_network_in(policy):
    keras.config.set_dtype_policy(policy)
    try:
        return residual_network()
    finally:
        keras.config.set_dtype_policy("float32")


def test_an_export_is_judged_in_the_arithmetic_of_its_target(tmp_path):
    """No flip there; and the report says what changes against what the user evaluates."""
    keras.utils.set_random_seed(0)
    x = images(512, (12, 12, 3))
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)
    model = every_kind_of_op()
    bias = model.layers[-1].bias
    bias.assign(bias - np.log(np.mean(model.predict(x, verbose=0), axis=0)))  # classes compete
    qmodel = quantized(model, config, x)
    answers = np.argmax(qmodel.predict(x, verbose=0), axis=-1)
    options = {"samples": (x, answers), "target": "tflm", "verbose": False}
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", **options)
    assert qmodel.computes_as == "litert"  # as before
    assert report.comparison.flip_rate == 0.0
    (output,) = report.evaluation.outputs
    with qmodel.computing_as("tflm"):
        on_device = np.argmax(qmodel.predict(x, verbose=0), axis=-1)
    changed = np.mean(on_device != answers)
    assert changed > 0.0
    assert output.agreement == pytest.approx(1.0 - changed)
    assert "compute_as('tflm') evaluates what this file computes" in report.render()
    assert (report.worth.of_trained, report.worth.of_file) == (1.0, pytest.approx(1.0 - changed))
    qmodel.compute_as("tflm")
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", **options)
    assert report.evaluation is None
    assert report.worth.of_trained == report.worth.of_file < 1.0
    np.testing.assert_array_equal(np.argmax(qmodel.predict(x, verbose=0), axis=-1), on_device)


def test_by_default_nothing_may_flip_for_tflm(tmp_path, monkeypatch):
    x, _ = points(64)
    qmodel = quantized(dense_network(), TWO_BITS, x)
    wrong = QuantizeWrapper.weight_codes
    monkeypatch.setattr(QuantizeWrapper, "weight_codes", lambda self: np.abs(wrong(self)))
    with pytest.raises(tflite_export.ExportError, match=r"differs from the trained model"):
        tflite_export.export(qmodel, tmp_path / "net.tflite", target="tflm", samples=x)


def test_wrong_targets_are_named():
    qmodel = quantized()
    with pytest.raises(ValueError, match=r"target must be one of .*'litert', 'tflm', .*'phone'"):
        qmodel.compute_as("phone")
    with pytest.raises(ValueError, match=r"weight_storage for target 'litert'.*Received: 'lut'"):
        qmodel.compute_as("litert", weight_storage="lut")
