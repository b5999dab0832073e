# %% [markdown]
# # A quantizer of your own
#
# A chip without a multiplier shifts: it wants weights that are 0 or a power of two. This page
# writes that quantizer, trains with it, and exports the very codes. Then it does ternary weights,
# which take one line.

# %%
import dataclasses

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits

import keras_qat
import tflite_export
from keras_qat.quantizers import Grid

keras.utils.set_random_seed(0)

# %% tags=["parameters"]
FLOAT_EPOCHS = 10
EPOCHS = 5


# %% [markdown]
# ## Forward, gradient, codes
#
# A quantizer of weights has a grid of integers and a scale. It says two things: `fake_quantize`,
# the values that training computes with and their gradient, and `codes`, the integers. One law
# ties them together: `codes(x) * scale == quantizer(x)`.


# %%
def power_of_two(ratio):
    """The nearest of 0, 1, 2 and 4, with the sign of the ratio."""
    size = ops.abs(ratio)
    code = ops.where(size < 0.5, 0.0, ops.where(size < 1.5, 1.0, ops.where(size < 3.0, 2.0, 4.0)))
    return ops.sign(ratio) * code


@keras.saving.register_keras_serializable(package="tutorial")
class PowerOfTwoQuantizer(keras_qat.WeightQuantizer):
    """Forward: `scale * power_of_two(x / scale)`. Backward: `dx = g * [|x| < 4 * scale]`."""

    def fake_quantize(self, x, rounding, selection=None):
        ratio = x / self.scale
        inside = ops.clip(x, -4 * self.scale, 4 * self.scale)
        return inside + ops.stop_gradient(self.scale * power_of_two(ratio) - inside)

    def codes(self, x):
        return ops.cast(power_of_two(self.prepare(x) / self.scale), "int32")


quantizer = PowerOfTwoQuantizer(Grid(-4, 4))
weights = np.linspace(-1.5, 1.5, 13, dtype=np.float32)[:, None]
quantizer.build(weights.shape)
quantizer.set_scale(0.25)
print(*np.asarray(quantizer.codes(weights))[:, 0])
np.testing.assert_array_equal(
    np.asarray(quantizer.codes(weights)) * np.float32(0.25), quantizer(weights)
)

# %% [markdown]
# ## A config hands it out
#
# Layers at the ends keep 8 bits, so the config asks for the width. Activations are as with LSQ.


# %%
@keras.saving.register_keras_serializable(package="tutorial")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerOfTwoConfig(keras_qat.LSQConfig):
    """Weights of 4 bits are 0 or a power of two."""

    def weight_quantizer(self, bits):
        if bits != 4:
            return super().weight_quantizer(bits)
        return PowerOfTwoQuantizer(
            Grid(-4, 4), per_channel=self.per_channel, name="weight_quantizer"
        )


# %% [markdown]
# ## Train and export
#
# The rest is as with every other quantizer.

# %%
digits = load_digits()
images = digits.images[..., None].astype(np.float32)
train, test = (images[:1297], digits.target[:1297]), (images[1297:], digits.target[1297:])
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((8, 8, 1), name="image"),
        layers.Conv2D(16, 3, padding="same", activation="relu", name="conv_1"),
        layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="conv_2"),
        layers.Flatten(name="flatten"),
        layers.Dense(10, activation="softmax", name="head"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(*train, epochs=FLOAT_EPOCHS, verbose=0)


def trained(config):
    qmodel = keras_qat.quantize(model, config, calibration_data=train[0][:512])
    qmodel.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    qmodel.fit(*train, epochs=EPOCHS, verbose=0)
    return qmodel


qmodel = trained(PowerOfTwoConfig(weight_bits=4))
report = tflite_export.export(qmodel, "shifts.tflite", samples=test, verbose=False)
(convolution,) = (op for op in qmodel.to_integer().ops if op.output == "conv_2_relu")
codes = np.unique(convolution.weight.values)
print(f"float {model.evaluate(*test, verbose=0)[1]:.1%}, file {report.worth.of_file:.1%}")
print("codes of conv_2:", *codes)
assert report.mismatches == 0
assert set(codes.tolist()) <= {-4, -2, -1, 0, 1, 2, 4}

# %% [markdown]
# ## Ternary
#
# Weights of -1, 0 and 1 need no rounding of their own: LSQ on a grid with three codes learns the
# scale.


# %%
@keras.saving.register_keras_serializable(package="tutorial")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TernaryConfig(keras_qat.LSQConfig):
    """Weights of 2 bits are -1, 0 or 1."""

    def weight_quantizer(self, bits):
        if bits != 2:
            return super().weight_quantizer(bits)
        return keras_qat.LSQWeightQuantizer(
            Grid(-1, 1), per_channel=self.per_channel, name="weight_quantizer"
        )


ternary = trained(TernaryConfig(weight_bits=2))
report = tflite_export.export(ternary, "ternary.tflite", samples=test, verbose=False)
print(f"file {report.worth.of_file:.1%}")
assert report.mismatches == 0

# %% [markdown]
# A quantizer in the package is also put under the laws that all quantizers keep:
# [contributing](../../CONTRIBUTING.md#a-quantizer). To change the gradient alone, write an
# estimator: [own estimator](../guide/own_estimator.md).
