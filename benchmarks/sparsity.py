"""What preserve_sparsity keeps: ResNet-8 with 80 % zeros, then quantized to W4A8.

    python benchmarks/sparsity.py

The smallest weights by magnitude of every kernel are set to 0, in steps of rising shares, and the
float model trains on under a constraint that keeps these zeros. Then it is quantized and trained on
twice, with and without preserve_sparsity. The last epoch counts. All figures go to a JSON file.
"""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import tempfile
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import resnet8
import tensorflow as tf
from absl import app, flags
from cifar10 import batches_per_epoch

import keras_qat
import tflite_export

SHARE = flags.DEFINE_float("share", 0.8, "Share of zeros in every kernel.", 0.0, 1.0)
EPOCHS = flags.DEFINE_integer("epochs", 1, "Epochs of each of the five trainings.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed.")
THREADS = flags.DEFINE_integer("threads", 1, "Threads of training.", 1)
OUTPUT = flags.DEFINE_string("output", "benchmarks/results/sparsity.json", "JSON file to write.")

_SAMPLES = 256


@keras.saving.register_keras_serializable(package="sparsity")
class KeepZeros(keras.constraints.Constraint):
    """Multiplies by a mask."""

    def __init__(self, mask: Any):
        self.mask = np.asarray(mask, np.float32)

    def __call__(self, weights: Any) -> Any:
        return weights * self.mask

    def get_config(self) -> dict[str, Any]:
        return {"mask": self.mask.tolist()}


def kernels(model: keras.Model) -> list[Any]:
    """The kernels of convolutions and dense layers."""
    return [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]


def zeros(arrays: list[Any]) -> float:
    """The share of zeros in all arrays together, in percent."""
    flat = np.concatenate([np.ravel(keras.ops.convert_to_numpy(each)) for each in arrays])
    return 100.0 * float(np.mean(flat == 0))


def prune(model: keras.Model, share: float) -> None:
    """Sets the smallest weights of every kernel to 0, and keeps them there."""
    for kernel in kernels(model):
        values = np.asarray(kernel)
        mask = np.abs(values) > np.quantile(np.abs(values), share)
        kernel.assign(values * mask)
        kernel.constraint = KeepZeros(mask)


def train(model: keras.Model, epochs: int, rate: float) -> None:
    """Trains as ResNet-8 trains in the other studies: Adam with cosine decay."""
    keras.utils.set_random_seed(SEED.value)
    steps = batches_per_epoch("train")
    decay = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
    model.compile(keras.optimizers.Adam(decay), "sparse_categorical_crossentropy")
    batches = resnet8.training_batches(SEED.value)
    model.fit(batches, epochs=epochs, steps_per_epoch=steps, verbose=2)


def accuracy(model: keras.Model) -> float:
    """Accuracy on the test images, in percent."""
    images, labels = resnet8.images("test")
    return resnet8.accuracy(model.predict(images, batch_size=500, verbose=0), labels)


def pruned_model() -> keras.Model:
    """The float model with zeros, pruned in three steps and trained on after each."""
    model = resnet8.float_model()
    for share in (SHARE.value * 0.6, SHARE.value * 0.85, SHARE.value):
        prune(model, share)
        train(model, EPOCHS.value, 1e-3)
    return model


def quantized(model: keras.Model, preserve: bool) -> dict[str, Any]:
    """Accuracy, zeros and bytes of the model at W4A8."""
    for kernel in kernels(model):
        kernel.constraint = None
    images, _ = resnet8.images("train")
    config = keras_qat.LSQConfig(weight_bits=4)
    qmodel = keras_qat.quantize(
        model, config, calibration_data=images[:512], preserve_sparsity=preserve
    )
    train(qmodel, EPOCHS.value, 1e-3)
    found: dict[str, Any] = {"keras_accuracy": accuracy(qmodel)}
    samples = resnet8.images("test")[0][:_SAMPLES]
    with tempfile.TemporaryDirectory() as folder:
        for target in ("litert", "tflm"):
            path = pathlib.Path(folder) / f"{target}.tflite"
            report = tflite_export.export(
                qmodel,
                path,
                target=target,
                samples=samples,
                weight_storage="auto",
                verbose=False,
            )
            found[f"{target}_bytes"] = report.file_bytes
            found[f"{target}_gzip_bytes"] = len(gzip.compress(path.read_bytes(), 9, mtime=0))
            found[f"{target}_mismatches"] = report.mismatches
    codes = [op.weight.values for op in qmodel.to_integer().ops if hasattr(op, "weight")]
    return {**found, "zeros_in_file": zeros(codes)}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    dense = accuracy(resnet8.float_model())
    model = pruned_model()
    found: dict[str, Any] = {
        "seed": SEED.value,
        "epochs": EPOCHS.value,
        "dense_float_accuracy": dense,
        "pruned_float_accuracy": accuracy(model),
        "zeros_before": zeros(kernels(model)),
    }
    output = pathlib.Path(OUTPUT.value)
    for name, preserve in (("preserved", True), ("not_preserved", False)):
        found[name] = quantized(model, preserve)
        output.write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found, indent=2), flush=True)


if __name__ == "__main__":
    app.run(main)
