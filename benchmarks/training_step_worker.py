"""Trains one network with one library, a few steps whenever the driver says so.

`training_step.py` starts it, with the Python of an environment that has the library. Every line
`run` on standard input makes `fit` go on by --steps batches. Every line of results on standard
output is a JSON object. All libraries train in one call of `fit`, so that schedules run as usual.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import app, flags

VARIANT = flags.DEFINE_string("variant", "float", "How to train.")
NETWORK = flags.DEFINE_string("network", "resnet8", "Which network.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images in a batch.", 1)
BITS = flags.DEFINE_integer("bits", 4, "Bits, for libraries with a choice.", 1, 8)
STEPS = flags.DEFINE_integer("steps", 10, "Steps at a time.", 1)
JIT = flags.DEFINE_bool("jit", False, "Whether XLA compiles the step.")

LEGACY = ("keras2", "tfmot", "qkeras")
"""Variants that need Keras 2."""
PLANNED_STEPS = 20_000
"""Steps that schedules plan with. It is more than any run takes."""
RESNET_BLOCKS = {"resnet8": 1, "resnet20": 3}
RESNET_FILTERS = (16, 32, 64)
MOBILENET_FILTERS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
MOBILENET_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
MOBILENET_WIDTH = 0.25
CLASSES = 10


class Plain:
    """The layers of Keras itself."""

    def __init__(self, keras: Any):
        self.keras = keras
        self.layers = keras.layers

    def input(self, size: int) -> Any:
        return self.keras.Input((size, size, 3))

    def quantized(self, x: Any) -> Any:
        """Quantizes the input, for libraries whose layers do not do it."""
        return x

    def conv(self, x: Any, filters: int, size: int, stride: int) -> Any:
        conv = self.layers.Conv2D(filters, size, stride, padding="same", use_bias=False)
        return self.layers.BatchNormalization()(conv(x))

    def depthwise(self, x: Any, stride: int) -> Any:
        conv = self.layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)
        return self.layers.BatchNormalization()(conv(x))

    def relu(self, x: Any) -> Any:
        return self.layers.ReLU()(x)

    def add(self, x: Any, y: Any) -> Any:
        return self.layers.Add()([x, y])

    def pool(self, x: Any) -> Any:
        return self.layers.GlobalAveragePooling2D()(x)

    def dense(self, x: Any) -> Any:
        return self.layers.Dense(CLASSES)(x)


class HGQ(Plain):
    """The layers of HGQ2, with its default grids."""

    def __init__(self, keras: Any):
        super().__init__(keras)
        self.hgq = importlib.import_module("hgq.layers")

    def conv(self, x: Any, filters: int, size: int, stride: int) -> Any:
        conv = self.hgq.QConv2D(filters, size, stride, padding="same", use_bias=False)
        return self.hgq.QBatchNormalization()(conv(x))

    def depthwise(self, x: Any, stride: int) -> Any:
        conv = self.hgq.QDepthwiseConv2D(3, stride, padding="same", use_bias=False)
        return self.hgq.QBatchNormalization()(conv(x))

    def add(self, x: Any, y: Any) -> Any:
        return self.hgq.QAdd()([x, y])

    def pool(self, x: Any) -> Any:
        return self.hgq.QGlobalAveragePooling2D()(x)

    def dense(self, x: Any) -> Any:
        return self.hgq.QDense(CLASSES)(x)


class QKeras(Plain):
    """The layers of QKeras, with weights and activations of --bits bits."""

    def __init__(self, keras: Any):
        super().__init__(keras)
        self.qkeras = importlib.import_module("qkeras")

    def _weights(self) -> Any:
        return self.qkeras.quantized_bits(BITS.value, 0, 1, alpha=1.0)

    def quantized(self, x: Any) -> Any:
        return self.qkeras.QActivation(self.qkeras.quantized_bits(8, 0, 1))(x)

    def conv(self, x: Any, filters: int, size: int, stride: int) -> Any:
        options = {"padding": "same", "use_bias": False, "kernel_quantizer": self._weights()}
        conv = self.qkeras.QConv2D(filters, size, stride, **options)
        return self.layers.BatchNormalization()(conv(x))

    def depthwise(self, x: Any, stride: int) -> Any:
        options = {"padding": "same", "use_bias": False, "depthwise_quantizer": self._weights()}
        conv = self.qkeras.QDepthwiseConv2D(3, stride, **options)
        return self.layers.BatchNormalization()(conv(x))

    def relu(self, x: Any) -> Any:
        return self.qkeras.QActivation(self.qkeras.quantized_relu(BITS.value, 2))(x)

    def dense(self, x: Any) -> Any:
        quantizer = self.qkeras.quantized_bits(8, 0, 1, alpha=1.0)
        return self.qkeras.QDense(CLASSES, kernel_quantizer=quantizer)(x)


def resnet(api: Plain, blocks: int) -> Any:
    """A residual network for 32x32 images, of `2 * 3 * blocks + 2` layers."""
    inputs = api.input(32)
    x = api.relu(api.conv(api.quantized(inputs), RESNET_FILTERS[0], 3, 1))
    for stage, filters in enumerate(RESNET_FILTERS):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = api.conv(api.relu(api.conv(x, filters, 3, stride)), filters, 3, 1)
            x = api.relu(api.add(y, api.conv(x, filters, 1, stride) if stride > 1 else x))
    return api.keras.Model(inputs, api.dense(api.pool(x)))


def mobilenet(api: Plain) -> Any:
    """MobileNetV1 at a quarter of its width, for 96x96 images."""
    inputs = api.input(96)
    x = api.relu(api.conv(api.quantized(inputs), int(32 * MOBILENET_WIDTH), 3, 2))
    for filters, stride in zip(MOBILENET_FILTERS, MOBILENET_STRIDES, strict=True):
        x = api.relu(api.depthwise(x, stride))
        x = api.relu(api.conv(x, int(filters * MOBILENET_WIDTH), 1, 1))
    return api.keras.Model(inputs, api.dense(api.pool(x)))


def build(api: Plain) -> Any:
    if NETWORK.value == "mobilenet":
        return mobilenet(api)
    return resnet(api, RESNET_BLOCKS[NETWORK.value])


def ours(model: Any, images: Any) -> tuple[Any, list[Any]]:
    """The model as keras_qat trains it, and its callbacks."""
    import keras_qat
    from keras_qat import callbacks

    bits = {"weight_bits": BITS.value, "activation_bits": BITS.value}
    kinds: dict[str, Callable[[], Any]] = {
        "ste": lambda: keras_qat.STEConfig(**bits),
        "lsq": lambda: keras_qat.LSQConfig(**bits),
        "gdnsq": lambda: keras_qat.GDNSQConfig(**bits),
        "gdnsq_distilled": lambda: keras_qat.GDNSQConfig(**bits),
        "pege": lambda: keras_qat.LSQConfig(**bits, estimator="pege", replacement="random"),
    }
    qmodel = keras_qat.quantize(model, kinds[VARIANT.value](), calibration_data=images)
    if VARIANT.value == "gdnsq_distilled":
        qmodel.distill_from(from_logits=True)
    if VARIANT.value.startswith("gdnsq"):
        return qmodel, [callbacks.GDNSQSchedule()]
    return qmodel, [callbacks.PEGESchedule()] if VARIANT.value == "pege" else []


def settled_kilobytes() -> int:
    """Returns freed memory to the system, resets the peak, and returns the memory in use.

    It works on Linux alone. TensorFlow keeps memory that its tensors once took, and training takes
    over what calibration left. So the memory of training is counted from before calibration.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return kilobytes("VmRSS")


def kilobytes(field: str) -> int:
    """A field of the process' status: `VmRSS`, or its peak, `VmHWM`."""
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(field))


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def obeying(keras: Any, idle_kilobytes: int) -> Any:
    """A callback that lets `fit` go on by --steps batches for every line that says so."""

    class Obeying(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self._await()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self._done += 1
            if self._done < STEPS.value:
                return
            wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
            memory = (kilobytes("VmHWM") - idle_kilobytes) / 1024
            say(wall=wall / STEPS.value, cpu=cpu / STEPS.value, megabytes=memory)
            self._await()

        def _await(self) -> None:
            if sys.stdin.readline().strip() != "run":
                os._exit(0)  # in the middle of fit, on purpose
            self._done = 0
            self._wall, self._cpu = time.perf_counter(), time.process_time()

    return Obeying()


def main(argv: list[str]) -> None:
    if VARIANT.value in LEGACY:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np
    import tensorflow as tf

    keras = importlib.import_module("tf_keras" if VARIANT.value in LEGACY else "keras")
    keras.utils.set_random_seed(0)
    api = {"hgq2": HGQ, "qkeras": QKeras}.get(VARIANT.value, Plain)(keras)
    model, callbacks = build(api), []
    idle_kilobytes = settled_kilobytes()
    generator = np.random.default_rng(0)
    images = generator.random((BATCH_SIZE.value, *model.input_shape[1:]), dtype=np.float32)
    labels = generator.integers(0, CLASSES, BATCH_SIZE.value)
    if VARIANT.value == "tfmot":
        tfmot = importlib.import_module("tensorflow_model_optimization")
        model = tfmot.quantization.keras.quantize_model(model)
    elif VARIANT.value not in ("float", "keras2", "hgq2", "qkeras"):
        model, callbacks = ours(model, images)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=JIT.value,
    )
    batches = tf.data.Dataset.from_tensors((images, labels)).cache().repeat(PLANNED_STEPS)
    batches = batches.apply(tf.data.experimental.assert_cardinality(PLANNED_STEPS)).prefetch(2)
    say(ready=VARIANT.value)
    settled_kilobytes()
    callbacks.append(obeying(keras, idle_kilobytes))
    model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=callbacks)


if __name__ == "__main__":
    app.run(main)
