"""RAdam: section `radam` of the golden vectors, and what every Keras optimizer keeps."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_qat.optimizers import RAdam
from keras_qat.optimizers.radam import rectification
from tests.golden_vectors import Case, cases

pytestmark = pytest.mark.slow_beyond(1)


def test_all_radam_cases_are_here():
    assert len(cases("radam")) == 2


def updates(optimizer, theta, gradients, rates, jit):
    """The variable after each step."""
    optimizer.build([theta])

    def step(gradient):
        optimizer.apply([gradient], [theta])
        return keras.ops.copy(theta.value)

    if jit:
        import tensorflow as tf

        step = tf.function(step, jit_compile=True)
    history = []
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.learning_rate = float(rate)
        history.append(np.asarray(step(keras.ops.convert_to_tensor(gradient))))
    return np.stack(history)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", cases("radam"))
def test_radam(name, jit):
    if jit and keras.backend.backend() != "tensorflow":
        pytest.skip("optimizers are compiled by the trainer here")
    case = Case("radam", name)
    theta = keras.Variable(case["theta0"])
    history = updates(RAdam(learning_rate=0.001), theta, case["grads"], case["lr"], jit)
    case.check("theta", history, rtol=1e-6, atol=1e-6)
    case.finish()


@pytest.mark.parametrize("beta_2", [0.7, 0.9, 0.99, 0.999, 0.9999])
def test_rectification_against_float64(beta_2):
    steps = np.unique(np.geomspace(1, 10**6, 300).astype(np.int64)).astype(np.float64)
    longest = 2 / (1 - beta_2) - 1
    power = np.exp(steps * np.log1p(beta_2 - 1))
    length = longest - 2 * steps * power / -np.expm1(steps * np.log1p(beta_2 - 1))
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    adaptive, factor = rectification(keras.ops.convert_to_tensor(steps.astype(np.float32)), beta_2)
    np.testing.assert_array_equal(adaptive, length > 5)
    expected = np.sqrt(np.where(length > 5, ratio, 0))
    np.testing.assert_allclose(factor, expected, rtol=2e-5)


def test_moments_learn_while_the_learning_rate_is_zero():
    theta = keras.Variable([1.0, 2.0])
    optimizer = RAdam(learning_rate=0.0)
    optimizer.apply([keras.ops.array([0.5, -4.0])], [theta])
    np.testing.assert_array_equal(theta.value, [1.0, 2.0])
    moments = {v.path.split("_")[-1]: np.asarray(v) for v in optimizer.variables[2:]}
    np.testing.assert_allclose(moments["momentum"], [0.05, -0.4], rtol=1e-6)
    np.testing.assert_allclose(moments["velocity"], [0.25e-3, 16e-3], rtol=1e-6)


def test_weight_decay_and_clipping_of_the_base_class():
    theta = keras.Variable([2.0])
    RAdam(learning_rate=0.5, weight_decay=0.1).apply([keras.ops.array([0.0])], [theta])
    np.testing.assert_allclose(theta.value, [2.0 - 2.0 * 0.5 * 0.1], rtol=1e-6)
    theta = keras.Variable([2.0])
    RAdam(learning_rate=0.5, clipvalue=1.0).apply([keras.ops.array([100.0])], [theta])
    np.testing.assert_allclose(theta.value, [1.5], rtol=1e-6)


def test_config_round_trip():
    optimizer = RAdam(0.01, beta_1=0.8, beta_2=0.99, epsilon=1e-6, weight_decay=1e-4, clipnorm=1.0)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(loaded, RAdam)
    assert loaded.get_config() == optimizer.get_config()


def model_and_data(jit):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(optimizer=RAdam(0.05), loss="mse", jit_compile=jit)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 4)).astype(np.float32)
    return model, x, x @ rng.normal(size=(4, 3)).astype(np.float32)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "jit"])
def test_training_goes_on_after_a_reload_as_if_nothing_happened(jit, tmp_path):
    model, x, y = model_and_data(jit)
    first = model.fit(x, y, batch_size=16, epochs=10, shuffle=False, verbose=0).history["loss"]
    assert first[-1] < 0.8 * first[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 20
    for run in (model, loaded):
        run.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    for weight, reloaded in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, reloaded)


def test_decay_rates_out_of_range_are_refused():
    with pytest.raises(ValueError, match="Received: beta_1=1"):
        RAdam(beta_1=1)
    with pytest.raises(ValueError, match=r"Received: beta_2=0.5"):
        RAdam(beta_2=0.5)


@pytest.mark.slow
def test_a_model_compiled_with_it_loads_in_a_fresh_process(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(RAdam(0.01), "mse")
    model.save(tmp_path / "model.keras")
    code = (
        "import sys, keras, keras_qat; "
        "print(type(keras.models.load_model(sys.argv[1]).optimizer).__name__)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.keras")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == "RAdam"
