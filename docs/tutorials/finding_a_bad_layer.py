# %% [markdown]
# # Finding a bad layer
#
# A network loses accuracy on its grids. Which layer is it, and what does it need? This page
# breaks a network in two ways, and finds each cause with one call.

# %%
import warnings

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_qat

keras.utils.set_random_seed(0)

# %% tags=["parameters"]
FLOAT_EPOCHS = 15


# %%
digits = load_digits()
images = digits.images[..., None].astype(np.float32)
train, test = (images[:1297], digits.target[:1297]), (images[1297:], digits.target[1297:])

# %%
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((8, 8, 1), name="image"),
        layers.Conv2D(16, 3, padding="same", activation="relu", name="conv_1"),
        layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise"),
        layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="conv_2"),
        layers.Flatten(name="flatten"),
        layers.Dense(32, activation="relu", name="hidden"),
        layers.Dense(10, activation="softmax", name="head"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(*train, epochs=FLOAT_EPOCHS, verbose=0)
print(f"float: {model.evaluate(*test, verbose=0)[1]:.1%}")


def quantized(config, overrides=None):
    """A quantized model without any training, and its accuracy."""
    qmodel = keras_qat.quantize(model, config, overrides=overrides, calibration_data=train[0][:512])
    qmodel.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return qmodel, qmodel.evaluate(*test, verbose=0)[1]


# %% [markdown]
# ## Too few bits, but where?
#
# Before any training, 2 bits cost a lot:

# %%
config = keras_qat.LSQConfig(weight_bits=2, activation_bits=2)
qmodel, accuracy = quantized(config)
print(f"2 bits, not trained: {accuracy:.1%}")

# %% [markdown]
# `step_sensitivity` asks how fast the loss changes with the step of each quantizer: to first
# order, the cost of one bit less. It needs a few hundred labelled examples.

# %%
sensitivity = keras_qat.step_sensitivity(qmodel, train[0][:512], train[1][:512])
ranking = sorted(sensitivity, key=sensitivity.get, reverse=True)
for name in ranking:
    print(f"{name:25} {sensitivity[name]:.3f}")

# %% [markdown]
# A check by hand: 8 bits for one layer at a time. The keys of `overrides` are regular expressions
# for names of layers.

# %%
better = keras_qat.LSQConfig(weight_bits=8, activation_bits=8)
for name in ("depthwise", "conv_2", "hidden"):
    gain = quantized(config, {f"{name}.*": better})[1] - accuracy
    print(f"8 bits for {name:10} {100 * gain:+.1f} points")

# %% [markdown]
# Give bits to the layer that gains most, then train: training repairs a lot as well. On ResNet-8
# the ranking agrees with such checks, without their cost
# ([figures](../../benchmarks/results/bottlenecks.md)).
#
# ## Unlike ranges on one grid
#
# Sensors come in their own units. Here two columns of the inputs are 10,000 times as large as the
# other two, and the answer depends on the small ones. The float model has a `Normalization`, and
# does not mind:

# %%
random = np.random.default_rng(0)
small = random.normal(size=(2000, 4)).astype(np.float32)
columns = small * np.float32([1, 1, 1e4, 1e4])
answers = (small[:, 0] + small[:, 1] > 0).astype(np.int32)


def classifier(columns):
    """A trained float model of these columns."""
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(columns)
    sensors = keras.Sequential(
        [
            keras.Input((4,), name="sensors"),
            normalization,
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(2, activation="softmax", name="answer"),
        ]
    )
    return fitted(sensors, columns)


def fitted(sensors, columns):
    sensors.compile(
        keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    sensors.fit(columns, answers, epochs=3, verbose=0)
    return sensors


sensors = classifier(columns)
print(f"float: {sensors.evaluate(columns, answers, verbose=0)[1]:.1%}")

# %% [markdown]
# All columns of an input share one grid, and the small ones have no level left. Training cannot
# bring them back. The plan says so before any training, and `quantize` warns:

# %%
plan = keras_qat.plan(sensors, calibration_data=columns[:500])
print(*plan.warnings, sep="\n")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the same words
    broken = fitted(keras_qat.quantize(sensors, calibration_data=columns[:500]), columns)
lost = broken.evaluate(columns, answers, verbose=0)[1]
print(f"8 bits: {lost:.1%}")
assert plan.warnings

# %% [markdown]
# The way out: bring the columns to one range before the model.

# %%
scaled = columns / np.float32([1, 1, 1e4, 1e4])
sensors = classifier(scaled)
plan = keras_qat.plan(sensors, calibration_data=scaled[:500])
mended = fitted(keras_qat.quantize(sensors, calibration_data=scaled[:500]), scaled)
found = mended.evaluate(scaled, answers, verbose=0)[1]
print(f"8 bits: {found:.1%}, {len(plan.warnings)} warnings")
assert not plan.warnings
assert found > lost

# %% [markdown]
# ## The file differs?
#
# It does not. `export` compares every element of every layer with the runtimes, and names the
# first tensor that differs. The report also counts, layer by layer, values that flipped against
# the Keras model ([what is compared](../guide/export.md#what-is-compared)). Messages and their
# causes: [troubleshooting](../guide/troubleshooting.md).
