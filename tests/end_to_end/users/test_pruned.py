"""A pruned network: a constraint keeps the zeros, in training and in the file."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
from tests.end_to_end.users.deployed import coloured_images, exported, trained

layers = keras.layers


@keras.saving.register_keras_serializable(package="pruned")
class KeepZeros(keras.constraints.Constraint):
    """Multiplies by a mask."""

    def __init__(self, mask):
        self.mask = np.asarray(mask, np.float32)

    def __call__(self, weights):
        return weights * ops.convert_to_tensor(self.mask, weights.dtype)

    def get_config(self):
        return {"mask": self.mask.tolist()}


def pruned(model, share=0.7, constraint=KeepZeros):
    """The same model with its smallest weights set to 0, and kept there by the constraint."""
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = np.asarray(layer.kernel)
            mask = np.abs(kernel) > np.quantile(np.abs(kernel), share)
            layer.kernel.assign(kernel * mask)
            if constraint is not None:
                layer.kernel_constraint = layer.kernel.constraint = constraint(mask)
    return model


def network():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            layers.Conv2D(16, 3, activation="relu", name="first"),
            layers.Conv2D(16, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax", name="classes"),
        ]
    )


def test_zeros_stay_zeros(tmp_path):
    keras.utils.set_random_seed(0)
    x, y = coloured_images(12)
    model = pruned(network())
    loss = "sparse_categorical_crossentropy"
    qmodel = trained(model, x, y, rate=1e-2, loss=loss)
    exported(qmodel, x, tmp_path)
    for name in ("first", "second"):
        wrapper = qmodel.get_layer(name)
        codes = np.asarray(wrapper.weight_quantizer.codes(wrapper.channels_last_kernel()))
        assert np.mean(codes == 0) >= 0.69


def test_zeros_that_nothing_keeps_are_named():
    x = np.random.default_rng(0).normal(size=(16, 12, 12, 3)).astype(np.float32)
    message = (
        r"mostly zeros in the layers 'first' \(70%\), 'second' \(70%\),.*"
        "preserve_sparsity=True.*kernel_constraint"
    )
    with pytest.warns(UserWarning, match=message):
        keras_qat.quantize(pruned(network(), constraint=None), calibration_data=x)
