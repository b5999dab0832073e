"""The same code on the JAX backend: gradients equal TensorFlow's, integers equal the model's."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

SCRIPT = """
import json
import keras, numpy as np
import keras_qat
from keras_qat import integer
from keras_qat.keras_graph import nodes
from tests.models import images, residual_network

x, y = images(64), np.arange(64) % 5
config = keras_qat.LSQConfig(weight_bits=3, activation_bits=3)
model = residual_network()
model.get_layer("dropout").rate = 0.0  # backends draw different numbers
rng = np.random.default_rng(0)
for layer in model.layers:
    if hasattr(layer, "use_bias"):
        shapes = [weight.shape for weight in layer.get_weights()]
        layer.set_weights([rng.normal(0.0, 0.3, shape) for shape in shapes])
qmodel = keras_qat.quantize(model, config, calibration_data=x)
for quantizer in qmodel.quantizers:
    if hasattr(quantizer, "scale_ratio"):  # off the clamp edges, where the last bit decides
        quantizer.scale_ratio.assign(np.full(quantizer.scale_ratio.shape, 1.01, np.float32))
before = [v.numpy() for v in qmodel.trainable_variables]
qmodel.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", jit_compile=False)
qmodel.fit(x, y, batch_size=64, epochs=1, shuffle=False, verbose=0)
steps = {
    v.path: (old - v.numpy()).ravel().tolist()
    for v, old in zip(qmodel.trainable_variables, before)
}
codes = qmodel.layer_codes(x)
graph = integer.add_headroom(qmodel.to_integer())
values = integer.run(graph, codes["image"], "xnnpack", keep_all=True)
flips = sum(int((codes[name] != values[name]).sum()) for name in codes)
print(json.dumps({"backend": keras.backend.backend(), "steps": steps, "flips": flips}))
"""
ROOT = pathlib.Path(__file__).parents[2]


def one_step(backend):
    """What one step of gradient descent with rate 1 changes: the gradients."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_gradients_equal_those_on_tensorflow():
    on_jax, on_tensorflow = one_step("jax"), one_step("tensorflow")
    assert (on_jax["backend"], on_tensorflow["backend"]) == ("jax", "tensorflow")
    assert on_jax["flips"] == on_tensorflow["flips"] == 0
    assert on_jax["steps"].keys() == on_tensorflow["steps"].keys()
    for path, expected in on_tensorflow["steps"].items():
        expected = np.asarray(expected)
        # Sums of float32 in another order; a bias before a BatchNormalization has a gradient of
        # zero, of which its terms' rounding errors are left.
        tolerance = 2e-4 * max(np.abs(expected).max(), 1e-2)
        np.testing.assert_allclose(on_jax["steps"][path], expected, rtol=0, atol=tolerance)
