"""The same code on the JAX backend: gradients equal TensorFlow's, integers equal the model's."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="needs JAX, as requirements for development do"
)

GRADIENTS = """
import functools, json
import keras, numpy as np
import keras_qat
from keras_qat import integer
from keras_qat.quantizers.gdnsq.integer_grids import fake_quantize_snapped_activations
from keras_qat.quantizers.gdnsq.integer_grids import fake_quantize_snapped_weights
from keras_qat.quantizers.gdnsq.noise_model import NoiseModel
from tests.golden_vectors import value_and_gradients
from tests.models import depthwise_network, images, residual_network
from tests.seams import target_flips
from tests.quantizers.integer_formulas import kernel, normal

found = {}


def flips_on_tflm(qmodel, x):
    qmodel.compute_as("tflm")
    assert qmodel.computes_as == "tflm"
    return target_flips(qmodel, x, "tflm")


def one_step(name, model, config):
    "What one step of gradient descent with rate 1 changes: the gradients."
    x, rng = images(64, model.inputs[0].shape[1:]), np.random.default_rng(0)
    for layer in model.layers:
        if hasattr(layer, "rate"):
            layer.rate = 0.0  # of a Dropout: backends draw different numbers
        if hasattr(layer, "use_bias"):
            shapes = [weight.shape for weight in layer.get_weights()]
            layer.set_weights([rng.normal(0.0, 0.3, shape) for shape in shapes])
    qmodel = keras_qat.quantize(model, config, calibration_data=x)
    for width in qmodel.learned_widths:
        width.narrow()
        width.hold()
    for quantizer in qmodel.quantizers:
        if hasattr(quantizer, "scale_ratio"):  # off the clamp edges, where the last bit decides
            quantizer.scale_ratio.assign(np.full(quantizer.scale_ratio.shape, 1.01, np.float32))
        for variable in quantizer.trainable_variables if qmodel.learned_widths else ():
            variable.assign(variable - 0.123)
    before = [v.numpy() for v in qmodel.trainable_variables]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=name != "lsq")
    jit = keras.backend.backend() == "jax"  # which takes longer to compile one op after another
    qmodel.compile(keras.optimizers.SGD(1.0), loss, jit_compile=jit)
    qmodel.fit(x, np.arange(64) % 5, batch_size=64, epochs=1, shuffle=False, verbose=0)
    steps = {
        v.path: (old - v.numpy()).ravel().tolist()
        for v, old in zip(qmodel.trainable_variables, before)
    }
    codes = qmodel.layer_codes(x)
    graph = integer.add_headroom(qmodel.to_integer())
    values = integer.run(graph, codes["image"], "xnnpack", keep_all=True)
    flips = sum(int((codes[name] != values[name]).sum()) for name in codes)
    found[name] = {"steps": steps, "flips": flips, "tflm_flips": flips_on_tflm(qmodel, x)}


def of_functions(estimator):
    "Gradients for fixed signs: learned grids, and held ones."
    noise = NoiseModel.of(estimator, sign=np.sign(normal(2, 3, 3, 2, 4)) / 2)
    cases = {
        "half": (fake_quantize_snapped_weights, {}, ([-1.3, -0.2, -2.1, 3.0],)),
        "whole": (fake_quantize_snapped_weights, {"half_steps": False}, ([-1.3, -0.2, -2, 3.0],)),
        "activations": (fake_quantize_snapped_activations, {}, (-1.1, -2.5, 1.3)),
    }
    for name, (function, own, parameters) in cases.items():
        for levels in (0.0, 4.0):
            quantize = functools.partial(function, held_levels=levels, **own, noise=noise)
            inputs = [kernel(0), *map(np.float32, parameters)]
            output, gradients = value_and_gradients(quantize, inputs, normal(1, 3, 3, 2, 4))
            numbers = {str(i): np.ravel(a).tolist() for i, a in enumerate([output, *gradients])}
            found[f"{name} {estimator} {levels}"] = {"steps": numbers}


bits = {"weight_bits": 3, "activation_bits": 3}
one_step("lsq", residual_network(), keras_qat.LSQConfig(**bits))
one_step("pege", depthwise_network(), keras_qat.PEGEConfig(**bits))
config = keras_qat.GDNSQConfig(**bits, noise_gradient="none", estimator="aewgs")
one_step("gdnsq", depthwise_network(), config)
for estimator in ("aewgs", "lsq"):
    of_functions(estimator)
print(json.dumps({"backend": keras.backend.backend(), **found}))
"""

FIT = """
import json
import keras, numpy as np
import keras_qat
from keras_qat import integer
from keras_qat.callbacks import GDNSQSchedule, PEGESchedule
from tests.models import dense_network, points

keras.utils.set_random_seed(0)
x, y = points(256)
bits = {"weight_bits": 2, "activation_bits": 2, "first_and_last_bits": 2, "start_bits": 8}
config = keras_qat.GDNSQConfig(**bits, estimator="pege", replacement="random")
qmodel = keras_qat.quantize(dense_network(), config, calibration_data=x)
loss = "sparse_categorical_crossentropy"
qmodel.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
schedule = GDNSQSchedule(verbose=0)
kept = []
record = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: kept.append(qmodel.bit_width_penalty.kept_progress().batches)
)
callbacks = [schedule, PEGESchedule(), record]
history = qmodel.fit(x, y, batch_size=16, epochs=16, verbose=0, callbacks=callbacks).history
codes = qmodel.layer_codes(x)
graph = integer.add_headroom(qmodel.to_integer())
values = integer.run(graph, codes["numbers"], "xnnpack", keep_all=True)
print(json.dumps({
    "backend": keras.backend.backend(),
    "met_at": schedule.targets_met_at,
    "meets": qmodel.meets_targets(),
    "batches": float(np.asarray(qmodel.bit_width_penalty.progress)[0]),
    "kept": kept,
    "logged_bits": float(history["max_weight_bits"][-1]),
    "accuracy": float(history["accuracy"][-1]),
    "shares": [float(q.replaced_share) for q in qmodel.replaced_quantizers.values()],
    "errors": history["weight_discretization_error"],
    "levels": [w.quantizer.qparams().levels for w in qmodel.learned_widths if w.layer is None],
    "flips": sum(int((codes[name] != values[name]).sum()) for name in codes),
}))
"""

IN_FLOAT = """
import json
import keras, numpy as np
import keras_qat

layers = keras.layers
words = keras.Input((6,), dtype="int32", name="words")
x = layers.Embedding(20, 8, name="embedding")(words)
x = layers.LayerNormalization(name="norm")(x)
x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
x = layers.EinsumDense("abc,cd->abd", (6, 4), bias_axes="d", name="up")(x)
model = keras.Model(words, layers.Dense(3, name="head")(layers.Flatten(name="flat")(x)))
rng = np.random.default_rng(0)
model.set_weights([rng.normal(0.0, 0.5, weight.shape) for weight in model.get_weights()])
x = rng.integers(0, 20, (32, 6), dtype=np.int32)
qmodel = keras_qat.quantize(model, keras_qat.LSQConfig(weight_bits=3), calibration_data=x)
before = [v.numpy() for v in qmodel.trainable_variables]
qmodel.compile(keras.optimizers.SGD(1.0), "mse")
qmodel.fit(x, np.ones((32, 3)), batch_size=32, shuffle=False, verbose=0)
found = {
    v.path: (old - v.numpy()).ravel().tolist()
    for v, old in zip(qmodel.trainable_variables, before)
}
print(json.dumps({"backend": keras.backend.backend(), **found}))
"""

STATISTICS = """
import json
import keras, numpy as np
import keras_qat
from keras_qat.callbacks import BatchNormReestimation, PEGESchedule
from tests.models import depthwise_network, images

x, y = images(64, (8, 8, 3)), np.arange(64) % 5
config = keras_qat.PEGEConfig(weight_bits=2, activation_bits=2)
model, rng = depthwise_network(), np.random.default_rng(0)
model.set_weights([rng.uniform(0.1, 0.5, weight.shape) for weight in model.get_weights()])
qmodel = keras_qat.quantize(model, config, calibration_data=x)
layers = [each for each in qmodel.layers if isinstance(each, keras.layers.BatchNormalization)]


def statistics():
    values = [(each.moving_mean, each.moving_variance) for each in layers]
    return np.array([np.asarray(v) for v in keras.tree.flatten(values)]).tolist()


keras_qat.reestimate_batch_normalization(qmodel, x)
found = {"before": statistics()}
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
qmodel.compile("adam", loss, jit_compile=keras.backend.backend() == "jax")
options = {"epochs": 2, "validation_data": (x, y), "verbose": 0}
callbacks = [PEGESchedule(), BatchNormReestimation(x)]
history = qmodel.fit(x, y, callbacks=callbacks, **options).history
found["validated"], found["evaluated"] = history["val_loss"][-1], qmodel.evaluate(x, y, verbose=0)
found["fitted"] = statistics()
keras_qat.reestimate_batch_normalization(qmodel, x)
found["again"] = statistics()
print(json.dumps({"backend": keras.backend.backend(), **found}))
"""
ROOT = pathlib.Path(__file__).parents[2]


SCRIPTS = {
    "gradients": GRADIENTS,
    "fit": FIT,
    "in_float": IN_FLOAT,
    "statistics": STATISTICS,
}
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""What runs here runs a few times: compiling it took most of the time."""


@pytest.fixture(scope="module")
def on_jax():
    """What each script finds on JAX: all of them in one process, each in a namespace of its own."""
    lines = ["import keras", *(f"exec({script!r}, {{}})" for script in SCRIPTS.values())]
    program = "\nkeras.backend.clear_session()\n".join(lines)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": QUICK_TO_COMPILE,
        },
    )
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert {each.pop("backend") for each in found} == {"jax"}
    return dict(zip(SCRIPTS, found, strict=True))


def on_tensorflow(script):
    """What a script finds in this process."""
    namespace: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in the other process
        exec(script, namespace)
    return namespace["found"]


@pytest.mark.slow
def test_gradients_equal_those_on_tensorflow(on_jax):
    of_all = on_tensorflow(GRADIENTS)
    assert on_jax["gradients"].keys() == of_all.keys()
    for case, expected in of_all.items():
        found = on_jax["gradients"][case]
        assert found.get("flips", 0) == expected.get("flips", 0) == 0
        assert found.get("tflm_flips", {}) == expected.get("tflm_flips", {}) == {}
        assert found["steps"].keys() == expected["steps"].keys()
        for path, step in expected["steps"].items():
            # Sums of float32 in another order; a bias before a BatchNormalization has a gradient
            # of zero, of which its terms' rounding errors are left.
            tolerance = 2e-4 * max(np.abs(step).max(), 3e-2)
            np.testing.assert_allclose(
                found["steps"][path], step, rtol=0, atol=tolerance, err_msg=f"{case}: {path}"
            )


@pytest.mark.slow
def test_both_schedules_arrive_inside_fit(on_jax):
    found = on_jax["fit"]
    assert found["meets"]
    assert 0 < found["met_at"] <= 0.6 * 256  # where GDNSQSchedule plans the arrival
    assert found["batches"] == 256  # the state in the variables, which a killed run takes up
    assert found["kept"] == list(range(16, 257, 16))  # what a callback saves at the end of an epoch
    assert found["logged_bits"] == 2
    assert max(found["levels"]) == 4
    assert found["accuracy"] > 0.5  # of three classes; 1/3 would be chance
    assert found["flips"] == 0
    assert set(found["shares"]) == {1.0}
    assert min(found["errors"]) > 0.0


@pytest.mark.slow
def test_layers_in_float_train_alike(on_jax):
    steps, of_all = on_jax["in_float"], on_tensorflow(IN_FLOAT)
    assert steps.keys() == of_all.keys()
    assert sum("attention" in path and "kernel" in path for path in steps) == 4
    for path, expected in of_all.items():  # float32 sums in another order, as above
        tolerance = 1e-3 * max(np.abs(expected).max(), 3e-2)
        np.testing.assert_allclose(steps[path], expected, rtol=0, atol=tolerance, err_msg=path)


@pytest.mark.slow
def test_running_statistics_are_set_anew(on_jax):
    there, here = on_jax["statistics"], on_tensorflow(STATISTICS)
    # Sums of float32 in another order.
    np.testing.assert_allclose(there["before"], here["before"], rtol=1e-4, atol=1e-5)
    for found in (there, here):
        assert found["fitted"] == found["again"]
        assert found["evaluated"] == pytest.approx(found["validated"], rel=1e-6)
        assert np.abs(np.subtract(found["fitted"], found["before"])).max() > 1e-3
