"""The golden vectors, their tolerances, and gradients on any backend."""

import json
import os
import pathlib

import keras
import numpy as np

VECTORS = np.load(pathlib.Path(__file__).parent / "golden" / "gdnsq_vectors.npz")

worst_use: dict[str, float] = {}
"""Section -> largest share of the tolerance used; written to $TOLERANCE_USE if that is set."""


def cases(section):
    return sorted({key.split("/")[1] for key in VECTORS.files if key.startswith(section + "/")})


def kernel(array):
    """OIHW -> HWIO, or (out, in) -> (in, out)."""
    return np.moveaxis(np.swapaxes(array, 0, 1), (0, 1), (-2, -1))


def image(array):
    """NCHW -> NHWC; without a height and a width as it is."""
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


class Case:
    """One case of a section; remembers which of its keys were read."""

    def __init__(self, section, name):
        self.section, self.prefix = section, f"{section}/{name}/"
        self.unread = {
            key.removeprefix(self.prefix)
            for key in VECTORS.files
            if key.startswith(self.prefix) and not key.endswith("__f32err")
        }

    def __contains__(self, key):
        return self.prefix + key in VECTORS.files

    def __getitem__(self, key):
        self.unread.discard(key)
        return VECTORS[self.prefix + key]

    def check(self, key, actual, layout=np.asarray, rtol=1e-5, atol=1e-6):
        """The tolerance of the vectors' own README: by the key's error estimate if it has one."""
        expected = layout(self[key])
        actual = np.asarray(actual)
        if actual.size == expected.size:
            actual = actual.reshape(expected.shape)
        estimate = f"{self.prefix}{key}__f32err"
        if estimate in VECTORS.files:
            largest = float(np.max(np.abs(expected)))
            rtol, atol = 0.0, 8 * float(VECTORS[estimate]) + 5e-5 * max(1e-3, largest)
        use = np.abs(actual.astype(np.float64) - expected) / (atol + rtol * np.abs(expected))
        worst_use[self.section] = max(worst_use.get(self.section, 0.0), float(np.max(use)))
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=key)

    def check_exactly(self, key, actual, layout=np.asarray):
        np.testing.assert_array_equal(actual, layout(self[key]), err_msg=key)

    def finish(self, *not_ours):
        """Everything in the case was compared or used, but for the keys named."""
        if "TOLERANCE_USE" in os.environ:
            pathlib.Path(os.environ["TOLERANCE_USE"]).write_text(json.dumps(worst_use))
        assert self.unread == set(not_ours)


def value_and_gradients(function, inputs, upstream=None, jit=False):
    """`(output, [d sum(output * upstream) / d input])`; upstream None: the output is a scalar."""
    inputs = [keras.ops.convert_to_tensor(value) for value in inputs]

    def loss(*tensors):
        output = function(*tensors)
        scalar = output if upstream is None else keras.ops.sum(output * upstream)
        return scalar, output

    if keras.backend.backend() == "jax":
        import jax

        step = jax.value_and_grad(loss, argnums=tuple(range(len(inputs))), has_aux=True)
        (_, output), gradients = (jax.jit(step) if jit else step)(*inputs)
        return np.asarray(output), [np.asarray(gradient) for gradient in gradients]

    import tensorflow as tf

    def step(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            scalar, output = loss(*tensors)
        return output, tape.gradient(scalar, tensors, unconnected_gradients="zero")

    output, gradients = (tf.function(step, jit_compile=True) if jit else step)(*inputs)
    return np.asarray(output), [np.asarray(gradient) for gradient in gradients]


def compiled(function):
    """The function under the backend's compiler."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True)
