# %% [markdown]
# # Two bits with GDNSQ
#
# GDNSQ learns bit widths: they start at 10 bits and come down to 2 while the network adapts. One
# picture shows widths, the capacity of the network and its accuracy over the run. It takes a
# minute or two on a CPU.

# %%
import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_qat
import tflite_export
from keras_qat.callbacks import CapacityMonitor, GDNSQSchedule

keras.utils.set_random_seed(0)

# %% tags=["parameters"]
FLOAT_EPOCHS = 30
EPOCHS = 25


# %%
digits = load_digits()
images = digits.images[..., None].astype(np.float32)
train, test = (images[:1297], digits.target[:1297]), (images[1297:], digits.target[1297:])

# %%
layers = keras.layers
inputs = keras.Input((8, 8, 1), name="image")
x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="middle")(x)
x = layers.ReLU(name="middle_relu")(layers.BatchNormalization(name="middle_bn")(x))
x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="features")(x)
x = layers.ReLU(name="features_relu")(layers.BatchNormalization(name="features_bn")(x))
x = layers.GlobalAveragePooling2D(name="pool")(x)
model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="answer")(x))
model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(*train, epochs=FLOAT_EPOCHS, verbose=0)
print(f"float: {model.evaluate(*test, verbose=0)[1]:.1%}")

# %% [markdown]
# ## Widths come down
#
# `GDNSQSchedule` plans the whole run, also the learning rate. `CapacityMonitor` looks at every
# quantizer after each epoch.

# %%
config = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2)
qmodel = keras_qat.quantize(model, config, calibration_data=train[0][:512])
qmodel.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
monitor = CapacityMonitor(train[0][:256])
schedule = GDNSQSchedule()
history = qmodel.fit(
    *train, epochs=EPOCHS, validation_data=test, verbose=0, callbacks=[schedule, monitor]
)
print(f"2 bits: {qmodel.evaluate(*test, verbose=0)[1]:.1%}")
print(f"all targets were met after {schedule.targets_met_at} batches")
assert schedule.targets_met_at is not None

# %% [markdown]
# ## The capacity picture

# %%
figure = keras_qat.plot_capacity_dynamics(monitor, history, "capacity.png")
network = monitor.history["network"]
bits = network["bits_per_mac"]
print(f"bits per MAC: {bits[0]:.1f} at the start, {bits[-1]:.1f} at the end")
print("narrowest:", *network["narrowest"][-1])

# %% [markdown]
# ![Bits, capacity and accuracy over the run](two_bits_with_gdnsq/capacity.png)
#
# Read it from left to right. Widths fall, so quantizers add noise and let fewer bits of an image
# through. The network loses accuracy while widths move, and recovers once they are held. The
# narrowest tensors are where the next bit would cost most information; whether the loss feels it
# is another question ([GDNSQ](../guide/gdnsq.md#the-network-as-a-chain-of-noisy-channels)).
#
# ## The file

# %%
report = tflite_export.export(qmodel, "two_bits.tflite", samples=test, verbose=False)
print(f"{report.mismatches} of {report.compared_elements:,} elements differ")
plan = tflite_export.plan_memory(qmodel, "lut")
print(
    f"in TensorFlow Lite Micro: {plan.flash_bytes:,} bytes, and {plan.table_code_bytes:,} of code"
)
assert report.mismatches == 0

# %% [markdown]
# One small network on 500 images proves nothing about methods. Over seeds and with intervals:
# [learned widths](../../benchmarks/results/gdnsq.md).
