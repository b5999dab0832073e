# %% [markdown]
# # First model to a phone
#
# An image classifier becomes a `.tflite` file of integers that an app can open: bytes of a camera
# go in, class scores come out, and the names of the classes are in the file. It takes a minute on
# a CPU.

# %%
import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_qat
import tflite_export

keras.utils.set_random_seed(0)

# %% tags=["parameters"]
FLOAT_EPOCHS = 15
EPOCHS = 5


# %% [markdown]
# ## Images as a camera gives them
#
# Handwritten digits of 8x8 pixels, as bytes from 0 to 255. Training on raw bytes pays later: the
# app needs no arithmetic on pixels.

# %%
digits = load_digits()
images = np.floor(digits.images[..., None] * (255 / 16)).astype(np.float32)
train, test = (images[:1297], digits.target[:1297]), (images[1297:], digits.target[1297:])
print(images.shape, images.min(), images.max())

# %% [markdown]
# ## A float model
#
# `Rescaling` is the first layer. It costs nothing in the file.

# %%
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((8, 8, 1), name="image"),
        layers.Rescaling(1 / 255, name="rescaling"),
        layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv_1"),
        layers.BatchNormalization(name="bn_1"),
        layers.ReLU(name="relu_1"),
        layers.SeparableConv2D(32, 3, strides=2, padding="same", use_bias=False, name="conv_2"),
        layers.BatchNormalization(name="bn_2"),
        layers.ReLU(name="relu_2"),
        layers.Flatten(name="flatten"),
        layers.Dense(10, activation="softmax", name="scores"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(*train, epochs=FLOAT_EPOCHS, verbose=0)
print(f"float: {model.evaluate(*test, verbose=0)[1]:.1%}")

# %% [markdown]
# ## Before training: will it go?
#
# The plan names each layer that cannot be quantized, and says why. Here it names none.

# %%
plan = keras_qat.plan(model, keras_qat.LSQConfig())
print(f"{len(plan.layers)} layers, {len(plan.unsupported)} that cannot be quantized")

# %% [markdown]
# ## Train on the grids of the file
#
# Scales start from a few hundred images. `fit` is plain Keras, with any optimizer and any
# callback.

# %%
qmodel = keras_qat.quantize(
    model, keras_qat.LSQConfig(), calibration_data=train[0][:512], target="litert"
)
qmodel.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
qmodel.fit(*train, epochs=EPOCHS, verbose=0)
print(f"8 bits: {qmodel.evaluate(*test, verbose=0)[1]:.1%}")

# %% [markdown]
# ## The file
#
# `io_dtype` says what the app sets and reads. Here bytes go in and real numbers come out. The
# metadata has the names of the classes, where readers such as the Task Library and Netron look
# for them.

# %%
report = tflite_export.export(
    qmodel,
    "digits.tflite",
    samples=test,
    io_dtype={"image": "uint8", "scores": "float32"},
    metadata=tflite_export.Metadata(
        name="Digits", description="Reads a handwritten digit.", labels=[str(n) for n in range(10)]
    ),
    verbose=False,
)
print(f"{report.file_bytes:,} bytes; float weights take {4 * model.count_params():,}")
print(f"{report.mismatches} of {report.compared_elements:,} elements differ from the runtimes")
print(
    f"float {report.worth.of_float}, trained {report.worth.of_trained}, file {report.worth.of_file}"
)
assert report.mismatches == 0

# %% [markdown]
# ## Run it as an app would
#
# `predict` runs the file in LiteRT, as an app does.

# %%
scores = tflite_export.predict("digits.tflite", test[0][:5])
for label, row in zip(test[1], scores, strict=False):
    print(f"a {label}: {row.argmax()} with {row.max():.2f}")
assert np.argmax(scores, axis=-1).shape == (5,)

# %% [markdown]
# Copy `digits.tflite` into the `assets` folder of the app. Fewer bits make no smaller file for a
# phone: see [choose your recipe](../recipe.md). What each option of `export` does: [export and
# proof](../guide/export.md).
