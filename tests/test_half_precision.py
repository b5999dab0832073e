"""Under mixed policies training is in half precision, and inference in float32."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export

layers = keras.layers
rng = np.random.default_rng(0)
Y = rng.integers(0, 3, 96)
X = (rng.normal(0, 1, (96, 12, 12, 3)) + Y[:, None, None, None]).astype("float32")
POLICIES = ["mixed_float16", "mixed_bfloat16"]


@pytest.fixture(scope="module", params=POLICIES)
def qmodel(request):
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy(request.param)
    keras.utils.set_random_seed(0)
    try:
        inputs = keras.Input((12, 12, 3))
        x = layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
        x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.6)(x))
        x = layers.DepthwiseConv2D(3, padding="same")(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.6)(x))
        x = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
        model = keras.Model(inputs, layers.Activation("softmax", dtype="float32")(x))
        qmodel = keras_qat.quantize(model, calibration_data=X)
        loss = "sparse_categorical_crossentropy"
        qmodel.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
        qmodel.fit(X, Y, epochs=3, verbose=0)
    finally:
        keras.mixed_precision.set_global_policy(before)
    return qmodel


def in_float32(qmodel):
    """The same weights in a model that computes in float32."""
    config = qmodel.get_config()

    def plain(entry):
        if isinstance(entry, dict):
            if entry.get("class_name") == "DTypePolicy":
                return {**entry, "config": {"name": "float32"}}
            return {key: plain(value) for key, value in entry.items()}
        return [plain(each) for each in entry] if isinstance(entry, list) else entry

    other = type(qmodel).from_config(plain(config))
    other.set_weights(qmodel.get_weights())
    return other


def test_inference_is_that_of_a_float32_model(qmodel):
    expected = in_float32(qmodel)
    assert {layer.compute_dtype for layer in expected.layers} == {"float32"}
    np.testing.assert_array_equal(qmodel.predict(X, verbose=0), expected.predict(X, verbose=0))
    np.testing.assert_array_equal(qmodel(X[:8]), expected(X[:8]))
    np.testing.assert_array_equal(qmodel(X[:8], training=False), expected(X[:8], training=False))
    codes, others = qmodel.layer_codes(X), expected.layer_codes(X)
    for name, value in codes.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)


def test_evaluation_is_that_of_a_float32_model(qmodel):
    expected = in_float32(qmodel)
    expected.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    assert qmodel.evaluate(X, Y, verbose=0) == expected.evaluate(X, Y, verbose=0)


def test_training_stays_in_half_precision(qmodel, monkeypatch):
    (relu, *_) = [each for each in qmodel.layers if isinstance(each, layers.ReLU)]
    seen, call = [], relu.call
    monkeypatch.setattr(relu, "call", lambda x: (seen.append(relu.compute_dtype), call(x))[1])
    for training in (True, False, True):
        qmodel(X[:2], training=training)
    half = relu.compute_dtype
    assert half in ("float16", "bfloat16")
    assert seen == [half, "float32", half]


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_the_default_export_passes(qmodel, target, tmp_path):
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, target=target, samples=X, verbose=False)
    assert report.mismatches == 0
    assert report.comparison.exact_flip_rate < 1e-5  # a tie


def small(policy, dtype=None):
    keras.mixed_precision.set_global_policy(policy)
    try:
        return keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense", dtype=dtype)])
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [("mixed_float16", None), ("float32", "mixed_float16"), ("mixed_bfloat16", None)],
)
def test_the_loss_is_scaled_where_that_of_the_float_model_is(policy, dtype, tmp_path):
    """Wherever the model is quantized or loaded."""
    model = small(policy, dtype)
    data = rng.normal(size=(32, 4)).astype("float32")
    qmodel = keras_qat.quantize(model, calibration_data=data)
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    for each in (model, qmodel, loaded):
        each.compile(keras.optimizers.SGD(0.1), "mse")
        each.fit(data, data[:, :3], verbose=0)
        scaled = isinstance(each.optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled == (policy == "mixed_float16")
        assert each.dtype_policy.name == policy
