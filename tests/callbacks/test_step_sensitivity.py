"""`step_sensitivity` against derivatives by hand, and what it leaves alone."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
from keras_qat.callbacks.channel_capacity import channel_of
from tests.models import images, residual_network

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 5)).astype(np.float32)
Y = RNG.normal(size=(12, 3)).astype(np.float32)


def linear(config="lsq"):
    """One Dense layer: every derivative is a product of two matrices."""
    inputs = keras.Input((5,), name="x")
    model = keras.Model(inputs, layers.Dense(3, name="dense")(inputs))
    return keras_qat.quantize(model, config, calibration_data=X)


def parts(qmodel):
    """Values before and after each quantizer of `linear`, in training."""
    dense = qmodel.get_layer("dense")
    latent = dense.layer.kernel.numpy()
    kernel = ops.convert_to_numpy(dense.weight_quantizer.prepare(latent))  # DoReFa squashes it
    x_hat = qmodel.get_layer("x_quantizer")(X).numpy()
    w_hat = dense.weight_quantizer(latent).numpy()
    y = x_hat @ w_hat
    return {
        "x/activations": (X, x_hat),
        "dense/weights": (kernel, w_hat),
        "dense/activations": (y, qmodel.get_layer("dense_quantizer")(y, training=True).numpy()),
    }


def terms(qmodel):
    """`g * n` of every element, for the mean squared error."""
    found = parts(qmodel)
    y, y_hat = found["dense/activations"]
    x_hat, w_hat = found["x/activations"][1], found["dense/weights"][1]
    at = qmodel.quantizer_sites()
    channels = {
        name: channel_of(site.quantizer, site.kernel and site.kernel.channels_last_kernel())
        for name, site in at.items()
    }
    g = 2.0 * (y_hat - Y) / Y.size
    end = channels["dense/activations"]
    behind = g * ((y > end.low) & (y < end.high))
    gradients = {
        "x/activations": behind @ w_hat.T,
        "dense/weights": x_hat.T @ behind,
        "dense/activations": g,
    }
    noises = {
        name: after - np.clip(before, channels[name].low, channels[name].high)
        for name, (before, after) in found.items()
    }
    return {name: gradients[name] * noises[name] for name in noises}


@pytest.mark.parametrize("bits", [8, 2])
@pytest.mark.parametrize("method", ["ste", "lsq", "dorefa"])
def test_it_is_the_derivative_by_hand(method, bits):
    config = {"ste": keras_qat.STEConfig, "lsq": keras_qat.LSQConfig}.get(
        method, keras_qat.DoReFaConfig
    )(first_and_last_bits=bits, input_bits=bits)
    qmodel = linear(config)
    found = keras_qat.step_sensitivity(qmodel, X, Y, "mse")
    signed = keras_qat.step_sensitivity(qmodel, X, Y, "mse", independent=False)
    for name, each in terms(qmodel).items():
        expected = math.log(2.0) * math.sqrt(np.sum(each.astype(np.float64) ** 2))
        assert found[name] == pytest.approx(expected, rel=1e-4)  # sums in float32
        expected = math.log(2.0) * abs(np.sum(each, dtype=np.float64))
        assert signed[name] == pytest.approx(expected, rel=2e-3, abs=1e-7)  # which cancel


def test_it_is_the_change_of_the_loss_when_the_noise_grows():
    """The noise of the kernel, a little larger and smaller: a central difference, exact here."""
    qmodel = linear(keras_qat.LSQConfig(first_and_last_bits=2, input_bits=8))
    qmodel.get_layer("dense_quantizer").set_scale(8.0)  # wide: nothing of y is cut off
    kernel, w_hat = parts(qmodel)["dense/weights"]
    x_hat = parts(qmodel)["x/activations"][1]
    channel = channel_of(qmodel.get_layer("dense").weight_quantizer)
    clipped = np.clip(kernel, channel.low, channel.high)
    noise = w_hat - clipped
    y_hat = parts(qmodel)["dense/activations"][1]

    def loss(growth):
        """The straight-through estimator sees `y_hat` move as `y` does."""
        moved = y_hat + x_hat @ ((growth - 1.0) * noise)
        return np.mean((moved - Y) ** 2)

    inside = parts(qmodel)["dense/activations"][0]
    end = channel_of(qmodel.get_layer("dense_quantizer"))
    assert np.all((inside > end.low) & (inside < end.high))
    slope = (loss(1.001) - loss(0.999)) / 0.002
    found = keras_qat.step_sensitivity(qmodel, X, Y, "mse", independent=False)
    assert found["dense/weights"] == pytest.approx(math.log(2.0) * abs(slope), rel=1e-3)


def test_random_signs_have_this_root_mean_square():
    """`sqrt(sum (g * n)**2)` is the deviation of `sum +-(g * n)` over all signs."""
    each = RNG.normal(size=9)
    signs = np.array([[1 - 2 * (i >> k & 1) for k in range(9)] for i in range(512)])
    deviation = np.sqrt(np.mean((signs @ each) ** 2))
    assert np.sqrt(np.sum(each**2)) == pytest.approx(deviation, rel=1e-12)


def test_values_on_the_grid_have_no_noise():
    qmodel = linear()
    grid = qmodel.get_layer("x_quantizer")
    on_grid = ops.convert_to_numpy(grid(X))
    found = keras_qat.step_sensitivity(qmodel, on_grid, Y, "mse")
    assert found["x/activations"] == 0.0
    assert found["dense/weights"] > 0.0


def test_batches_are_averaged_as_squares():
    qmodel = linear()
    halves = [
        keras_qat.step_sensitivity(qmodel, X[s], Y[s], "mse") for s in (slice(6), slice(6, 12))
    ]
    found = keras_qat.step_sensitivity(qmodel, X, Y, "mse", batch_size=6)
    for name, value in found.items():
        squares = [half[name] ** 2 for half in halves]
        assert value == pytest.approx(math.sqrt(sum(squares) / 2.0), rel=1e-12)


def test_the_compiled_loss_is_the_default():
    qmodel = linear()
    expected = keras_qat.step_sensitivity(qmodel, X, Y, "mse")
    qmodel.compile("sgd", "mse")
    found = keras_qat.step_sensitivity(qmodel, X, Y)
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_penalty_on_bit_widths_is_no_part_of_it():
    qmodel = linear("gdnsq")
    qmodel.compile("sgd", "mse")
    expected = keras_qat.step_sensitivity(qmodel, X, Y, "mse")
    assert keras_qat.step_sensitivity(qmodel, X, Y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", ["gdnsq", "pege", "lsq"])
def test_a_network_keeps_all_its_variables(method):
    qmodel = keras_qat.quantize(residual_network(), method, calibration_data=images(16))
    before = [ops.convert_to_numpy(variable) for variable in qmodel.variables]
    labels = np.arange(8) % 5
    found = keras_qat.step_sensitivity(qmodel, images(8), labels, "sparse_categorical_crossentropy")
    assert list(found) == list(qmodel.named_quantizers)
    assert all(value > 0.0 for value in found.values())
    for variable, value in zip(qmodel.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert not any(quantizer.tap for quantizer in qmodel.quantizers)


def test_inputs_and_outputs_with_names():
    inputs = {name: keras.Input((5,), name=name) for name in ("a", "b")}
    total = layers.Add(name="sum")([layers.Dense(4, name=f"of_{n}")(t) for n, t in inputs.items()])
    outputs = {name: layers.Dense(3, name=name)(total) for name in ("left", "right")}
    fed = {"a": X, "b": X[::-1]}
    qmodel = keras_qat.quantize(keras.Model(inputs, outputs), "lsq", calibration_data=fed)
    qmodel.compile("sgd", {"left": "mse", "right": "mse"})
    found = keras_qat.step_sensitivity(qmodel, fed, {"left": Y, "right": -Y}, batch_size=5)
    assert all(value > 0.0 for value in found.values())


def test_one_loss_is_summed_over_outputs():
    inputs = keras.Input((5,), name="x")
    outputs = [layers.Dense(3, name=name)(inputs) for name in ("left", "right")]
    qmodel = keras_qat.quantize(keras.Model(inputs, outputs), "lsq", calibration_data=X)
    expected = keras_qat.step_sensitivity(qmodel, X, [Y, Y], "mse")
    qmodel.compile("sgd", "mse")
    found = keras_qat.step_sensitivity(qmodel, X, [Y, Y])
    assert found == pytest.approx(expected, rel=1e-6)


def test_labels_may_be_a_list_of_numbers():
    qmodel = linear()
    loss, labels = "sparse_categorical_crossentropy", [0, 1, 2] * 4
    expected = keras_qat.step_sensitivity(qmodel, X, np.array(labels), loss)
    assert keras_qat.step_sensitivity(qmodel, X, labels, loss) == expected


def test_a_model_may_be_built_on_lists_of_one():
    """As files of old Keras releases are."""
    inputs = [keras.Input((5,), name="x")]
    model = keras.Model(inputs, [layers.Dense(3, name="dense")(inputs[0])])
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=X)
    found = keras_qat.step_sensitivity(qmodel, X, Y, "mse")
    assert found["dense/weights"] > 0.0


def test_tensors_on_a_shared_grid_are_told_apart():
    """The branches of a Concatenate share one quantizer; a dead one has no influence."""
    inputs = keras.Input((5,), name="x")
    branches = [layers.Dense(4, name=name)(inputs) for name in ("live", "dead")]
    joined = layers.Concatenate(name="joined")(branches)
    model = keras.Model(inputs, layers.Dense(3, name="out")(joined))
    kernel = model.get_layer("out").kernel
    kernel.assign(np.concatenate([kernel.numpy()[:4], np.zeros((4, 3))]))
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=X)
    found = keras_qat.step_sensitivity(qmodel, X, Y, "mse")
    assert found["live/activations"] > 0.0
    assert found["dead/activations"] == 0.0


def test_without_a_loss_the_way_out_is_named():
    qmodel = linear()
    with pytest.raises(ValueError, match=r"not compiled.*Compile it, or pass loss="):
        keras_qat.step_sensitivity(qmodel, X, Y)
    assert keras_qat.step_sensitivity(qmodel, X, Y, loss="mse")


@pytest.mark.parametrize(
    ("x", "y", "options", "match"),
    [
        (X, Y[:5], {}, r"\[12\] inputs and \[5\] labels"),
        (X[:0], Y[:0], {}, "at least one"),
        (X, Y, {"batch_size": 0}, "batch_size"),
    ],
)
def test_what_does_not_fit_is_named(x, y, options, match):
    with pytest.raises(ValueError, match=match):
        keras_qat.step_sensitivity(linear(), x, y, "mse", **options)


def test_a_model_in_float_is_refused():
    inputs = keras.Input((5,), name="x")
    qmodel = keras_qat.QuantizedModel(inputs, layers.Dense(3)(inputs))
    with pytest.raises(ValueError, match="has no quantizers"):
        keras_qat.step_sensitivity(qmodel, X, Y, "mse")


def test_other_backends_are_refused(monkeypatch):
    qmodel = linear()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=tensorflow"):
        keras_qat.step_sensitivity(qmodel, X, Y, "mse")
