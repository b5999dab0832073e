"""The discretization error as a loss of its own: its value, its gradient, and where it is seen."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
from keras_qat.callbacks import GDNSQSchedule, PEGESchedule
from keras_qat.quantizers.grid import round_to_codes
from tests.models import dense_network, points

pytestmark = pytest.mark.slow_beyond(1)

X, Y = points()
LOW = {"weight_bits": 2, "activation_bits": 2}
CONFIGS = {
    "ste": keras_qat.STEConfig,
    "lsq": keras_qat.LSQConfig,
    "dorefa": keras_qat.DoReFaConfig,
    "gdnsq": lambda **options: keras_qat.GDNSQConfig(start_bits=2, **options),
    "gdnsq_free": lambda **options: keras_qat.GDNSQConfig(start_bits=2, offset="free", **options),
}


def new_model(config):
    keras.utils.set_random_seed(0)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=X)
    qmodel.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return qmodel


def loss_of(qmodel):
    return float(qmodel.compute_loss(X, Y, qmodel(X, training=True)))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_mean_squared_distance_of_every_tensor(name):
    strength = 0.5
    with_loss = new_model(CONFIGS[name](**LOW, discretization_loss=strength))
    without = new_model(CONFIGS[name](**LOW))
    expected, sites = 0.0, with_loss.quantizer_sites()
    sources = {each: site.source for each, site in sites.items() if site.kernel is None}
    values = keras.Model(with_loss.inputs, sources)([X], training=True)
    for each, site in sites.items():
        if site.kernel is not None:
            values[each] = site.quantizer.prepare(site.kernel.channels_last_kernel())
        if not site.quantizer.discretization_loss:
            assert each == "numbers/activations"  # an input has a fixed grid
            continue
        x = np.asarray(values[each])
        levels = np.asarray(site.quantizer(values[each]) if site.kernel is None else _levels(site))
        expected += np.mean(np.square((x - levels) / np.asarray(site.quantizer.extent(x))))
    assert loss_of(with_loss) - loss_of(without) == pytest.approx(strength * expected, rel=2e-3)
    assert float(with_loss.discretization_log.result()) == pytest.approx(
        strength * expected, rel=1e-4
    )
    assert without.discretization_log is None


def _levels(site):
    """What a kernel computes with."""
    kernel = site.kernel.channels_last_kernel()
    prepared = site.quantizer.prepare(kernel)
    if site.quantizer.deployable:
        return np.asarray(site.quantizer.codes(kernel)) * np.asarray(site.quantizer.scale)
    return site.quantizer.fake_quantize(prepared, round_to_codes)


def test_its_gradient_moves_values_to_their_codes():
    """`2 * strength * (w - w_hat) / (R**2 * elements)` on top of the gradient of the task."""
    found = []
    for strength in (0.0, 8.0):
        config = keras_qat.LSQConfig(
            weight_bits=2, activation_bits=None, discretization_loss=strength
        )  # the terms of activations would move the weights in front of them, too
        qmodel = new_model(config)
        layer = qmodel.get_layer("hidden")
        with tf.GradientTape() as tape:
            loss = qmodel.compute_loss(X, Y, qmodel(X, training=True))
        (kernel,) = [w for w in layer.trainable_variables if w.path.endswith("kernel")]
        found.append(np.asarray(tape.gradient(loss, kernel.value)))
        quantizer = layer.weight_quantizer
        weights = np.asarray(kernel)
        rounded = np.asarray(quantizer.codes(weights)) * np.asarray(quantizer.scale)
        extent = np.asarray(quantizer.extent(weights))
    expected = 2 * 8.0 * (weights - rounded) / (extent**2 * weights.size)
    np.testing.assert_allclose(found[1] - found[0], expected, rtol=1e-3, atol=1e-5)  # a difference


@pytest.mark.parametrize("name", ["lsq", "pege", "gdnsq"])
def test_fit_logs_it_lowers_the_error_and_evaluation_is_plain(name):
    config = {"lsq": keras_qat.LSQConfig, "pege": keras_qat.PEGEConfig}.get(
        name, keras_qat.GDNSQConfig
    )
    schedules = {"pege": [PEGESchedule()], "gdnsq": [GDNSQSchedule(verbose=0)]}.get(name, [])
    errors = []
    for strength in (0.0, 3.0):
        qmodel = new_model(config(**LOW, discretization_loss=strength))
        monitor = keras_qat.callbacks.DiscretizationMonitor(X[:64])
        history = qmodel.fit(
            X, Y, epochs=38, batch_size=32, verbose=0, callbacks=[*schedules, monitor]
        ).history
        assert ("discretization_loss" in history) == (strength > 0.0)
        tensors = monitor.history["tensors"].items()
        errors.append(np.mean([t["rounding"][-1] for n, t in tensors if n.endswith("weights")]))
        scores = qmodel.evaluate(X, Y, verbose=0, return_dict=True)
        assert set(scores) == {"loss"}
        if (
            strength and name == "lsq"
        ):  # the others begin before all elements are on their last grid
            assert history["discretization_loss"][-1] < history["discretization_loss"][0]
    assert errors[1] < errors[0]


def test_it_is_saved_and_checked(tmp_path):
    qmodel = new_model(keras_qat.LSQConfig(**LOW, discretization_loss=0.25))
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras", compile=False)
    found = {each.discretization_loss for each in loaded.quantizers}
    assert found == {0.0, 0.25}  # the input has none
    assert loaded.discretization_log is not None
    for wrong in (-1.0, float("nan"), "much"):
        with pytest.raises(ValueError, match="discretization_loss must be a finite number"):
            keras_qat.LSQConfig(discretization_loss=wrong)


def test_calls_outside_of_a_training_step_leave_nothing_behind():
    qmodel = new_model(keras_qat.LSQConfig(**LOW, discretization_loss=0.25))
    first = loss_of(qmodel)
    for _ in range(3):
        qmodel(X, training=True)
    assert loss_of(qmodel) == pytest.approx(first, rel=1e-6)
