# %% [markdown]
# # Motion on a microcontroller
#
# A network tells four gestures from an accelerometer, and becomes C++ for TensorFlow Lite Micro.
# Flash and RAM are known before training. The signals are computed, so that nothing has to be
# downloaded; [activity_on_mcu.py](../../examples/activity_on_mcu.py) does the same with
# recordings of people.

# %%
import keras
import numpy as np

import keras_qat
import tflite_export

keras.utils.set_random_seed(0)

# %% tags=["parameters"]
FLOAT_EPOCHS = 40
EPOCHS = 8
WINDOWS = 1600


# %% [markdown]
# ## Signals
#
# Windows of 64 readings at 50 Hz, three axes, in g. Pace, strength, direction of gravity and
# noise differ from window to window.

# %%
GESTURES = ("rest", "shake", "circle", "tap")


def windows(count, seed):
    """Readings `(count, 64, 1, 3)` in g, and gestures from 0 to 3."""
    random = np.random.default_rng(seed)
    time = np.arange(64) / 50
    labels = random.integers(0, len(GESTURES), count)
    pace = random.uniform(1.5, 4.0, count)[:, None]
    strength = random.uniform(0.3, 1.2, count)[:, None]
    angle = 2 * np.pi * pace * time + random.uniform(0, 6, count)[:, None]
    motion = np.zeros((count, 64, 3))
    shaken, circled, tapped = (labels == n for n in (1, 2, 3))
    motion[shaken, :, 0] = (strength * np.sin(angle))[shaken]
    motion[circled, :, 0] = (strength * np.sin(angle))[circled]
    motion[circled, :, 1] = (strength * np.cos(angle))[circled]
    motion[tapped, :, 2] = (2 * strength * np.maximum(np.sin(angle), 0) ** 16)[tapped]
    gravity = random.normal(size=(count, 1, 3))
    gravity /= np.linalg.norm(gravity, axis=-1, keepdims=True)
    readings = motion + gravity + random.normal(0, 0.1, motion.shape)
    return readings[:, :, None].astype(np.float32), labels


train, test = windows(WINDOWS, 0), windows(500, 1)

# %% [markdown]
# ## A small network
#
# A sequence is an image of width 1 here, so that convolutions run over time.

# %%
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((64, 1, 3), name="motion"),
        layers.Conv2D(16, (5, 1), strides=(2, 1), padding="same", activation="relu", name="conv_1"),
        layers.Conv2D(32, (5, 1), strides=(2, 1), padding="same", activation="relu", name="conv_2"),
        layers.Conv2D(32, (3, 1), strides=(2, 1), padding="same", activation="relu", name="conv_3"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(4, activation="softmax", name="gesture"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(*train, epochs=FLOAT_EPOCHS, verbose=0)
print(f"float: {model.evaluate(*test, verbose=0)[1]:.1%}, {4 * model.count_params():,} bytes")

# %% [markdown]
# ## Flash and RAM, before training
#
# Weights get 3 bits, activations 8: weights take flash, and TensorFlow Lite Micro computes in
# int8. `target="tflm"` refuses at once what the runtime cannot hold.

# %%
config = keras_qat.LSQConfig(weight_bits=3, activation_bits=8)
qmodel = keras_qat.quantize(model, config, calibration_data=train[0][:512], target="tflm")
plan = tflite_export.plan_memory(qmodel)
print(f"{plan.flash_bytes:,} bytes of flash, {plan.arena_bytes:,} bytes of RAM")
figure = tflite_export.plot_memory(plan, "memory.png")

# %% [markdown]
# ![Which tensor lies where in RAM while the operators run](motion_on_a_microcontroller/memory.png)
#
# ## Train

# %%
qmodel.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
qmodel.fit(*train, epochs=EPOCHS, verbose=0)
print(f"3 bits: {qmodel.evaluate(*test, verbose=0)[1]:.1%}")

# %% [markdown]
# ## C++ sources
#
# They hold the file as an array, the list of operators, and a self-test with examples. The test
# on the device counts integers that differ; here TensorFlow Lite Micro has run them already.

# %%
firmware = tflite_export.write_micro(
    qmodel, "firmware", name="gesture", samples=test[0][:64], verbose=False
)
print(*firmware.files, sep="\n")
print(f"{firmware.report.mismatches} of {firmware.report.compared_elements:,} elements differ")
assert firmware.report.mismatches == 0

# %% [markdown]
# ## The file answers as the model

# %%
answers = tflite_export.predict("firmware/gesture.tflite", test[0], runtime="tflm")
print(f"in TensorFlow Lite Micro: {np.mean(answers.argmax(-1) == test[1]):.1%}")
print(f"{firmware.arena_bytes:,} bytes of RAM, enough for the kernels of every vendor")

# %% [markdown]
# In a network this small, tables for weights of 3 bits would save less flash than the code that
# reads them takes, so the file holds int8. In a larger one they pay.
#
# Compile the sources with the TensorFlow Lite Micro of your project, call the self-test once,
# then feed readings. Every storage of weights, and what it costs:
# [microcontrollers](../guide/microcontrollers.md).
