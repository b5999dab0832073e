"""The peers in README's table: TFMOT's training and post-training quantization of ResNet-8.

    python3.11 -m venv peers && peers/bin/python -m pip install tensorflow-cpu==2.21.* \\
        tf-keras==2.21.* tensorflow-model-optimization==0.8.* ai-edge-litert==2.3.* \\
        tensorflow-datasets absl-py
    peers/bin/python benchmarks/peers_resnet8.py

TFMOT trains in Keras 2, so it has an environment of its own. keras_qat is not in it. The float
model is the one of all other ResNet-8 runs. It is built again in Keras 2 from the same weights, and
must give the same probabilities.

- "tfmot_black": `quantize_model` with its defaults (8 bits), then 5 epochs of Adam at 1e-3 with
  cosine decay, in batches of 128, flipped and shifted by up to 4 pixels before a black border. So
  `examples/cifar10_resnet8.py` trains. The last epoch counts.
- "tfmot_edge": the same on the images of `resnet8.py`, shifted by up to 3 pixels with the edges
  repeated, on which the float model and the rows of README were trained.
- "post_training": TensorFlow's converter, its ranges from the first 512 training images, as
  `quantize` calibrates.

All files take and return int8. They run in LiteRT on the 10,000 test images. Rows that are in the
result, benchmarks/results/peers_resnet8.json, are not measured again.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import resnet8
import tensorflow as tf
from absl import app, flags
from cifar10 import Border, accuracy, batches_per_epoch, training_batches

from keras_qat.integer.files import replace_file
from keras_qat.training.backup_files import sha256

_HERE = pathlib.Path(__file__).resolve().parent

ROWS = flags.DEFINE_multi_enum(
    "row",
    ["post_training", "tfmot_black", "tfmot_edge"],
    ["post_training", "tfmot_black", "tfmot_edge"],
    "What to measure.",
)
EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs of TFMOT's training.", 1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Initial rate of the cosine decay.")
SEED = flags.DEFINE_integer("seed", 0, "Random seed of TFMOT's training.")
THREADS = flags.DEFINE_integer("threads", 1, "Threads of training.", 1)
OUTPUT = flags.DEFINE_string("output", str(_HERE / "results" / "peers_resnet8.json"), "The result.")
FILES_DIR = flags.DEFINE_string("files_dir", None, "Where the .tflite files go; not kept if unset.")

_PACKAGES = ("tensorflow-cpu", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert")


def network(keras: Any) -> Any:
    """MLPerf Tiny's ResNet-8 with new weights, in any Keras."""
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))

    def conv(x, filters, size=3, stride=1):
        return layers.Conv2D(filters, size, stride, padding="same")(x)

    x = layers.ReLU()(layers.BatchNormalization()(conv(inputs, 16)))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(layers.BatchNormalization()(conv(x, filters, 3, stride)))
        y = conv(y, filters)
        if stride > 1:
            x = conv(x, filters, 1, stride)
        x = layers.ReLU()(layers.Add()([x, layers.BatchNormalization()(y)]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def copy_weights(source: Any, target: Any) -> None:
    """Copies weights by the order of the layers of each type.

    Raises:
        ValueError: the networks differ.
    """
    for kind in ("Conv2D", "BatchNormalization", "Dense"):
        given, taken = (
            [layer for layer in model.layers if type(layer).__name__ == kind]
            for model in (source, target)
        )
        for old, new in zip(given, taken, strict=True):
            new.set_weights(old.get_weights())


def float_model(keras2: Any) -> tuple[Any, float]:
    """The float model in Keras 2, and its accuracy on the test set.

    Raises:
        ValueError: it does not compute what the given model computes.
    """
    given, model = resnet8.float_model(), network(keras2)
    copy_weights(given, model)
    images, labels = resnet8.images("test")
    expected = given.predict(images, batch_size=500, verbose=0)
    found = model.predict(images, batch_size=500, verbose=0)
    if not np.allclose(expected, found, rtol=0.0, atol=1e-4):  # other kernels sum in another order
        raise ValueError(
            "The network in Keras 2 must give the probabilities of the given float model. "
            f"Received: a difference of {np.max(np.abs(expected - found)):.2g}"
        )
    return model, accuracy(found, labels)


def tfmot_model(keras2: Any, model: Any, border: Border) -> Any:
    """The model as TFMOT quantizes it, trained on images with this border."""
    import tensorflow_model_optimization as tfmot

    keras2.utils.set_random_seed(SEED.value)
    qmodel = tfmot.quantization.keras.quantize_model(model)
    steps = batches_per_epoch("train")
    decay = keras2.optimizers.schedules.CosineDecay(LEARNING_RATE.value, EPOCHS.value * steps)
    qmodel.compile(
        keras2.optimizers.Adam(decay), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    reach = {"black": 4, "edge": resnet8.REACH}[border]
    qmodel.fit(
        training_batches("train", SEED.value, 0, reach, border),
        epochs=EPOCHS.value,
        steps_per_epoch=steps,
        verbose=2,
    )
    return qmodel


def converted(model: Any, ranges: Any = None) -> bytes:
    """The model as an int8 file. `ranges` is the converter's representative dataset."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if ranges is not None:
        converter.representative_dataset = ranges
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def calibration() -> Iterator[list[np.ndarray]]:
    """The first training images, one at a time, as the converter asks for them."""
    for image in resnet8.images("train")[0][: resnet8.CALIBRATION_IMAGES]:
        yield [image[None]]


def predicted(path: pathlib.Path, images: np.ndarray, batch: int = 500) -> np.ndarray:
    """The codes that a file returns in LiteRT (XNNPACK)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=THREADS.value)
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], (batch, *images.shape[1:]))
    interpreter.allocate_tensors()
    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = given["quantization"]
    found = []
    for first in range(0, len(images), batch):
        codes = np.rint(images[first : first + batch] / np.float32(scale)) + zero_point
        interpreter.set_tensor(given["index"], np.clip(codes, -128, 127).astype(np.int8))
        interpreter.invoke()
        found.append(interpreter.get_tensor(returned["index"]))
    return np.concatenate(found)


def measured(name: str, content: bytes, trained: Any = None) -> dict[str, Any]:
    """What README's table states of one peer."""
    images, labels = resnet8.images("test")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(FILES_DIR.value or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"resnet8_{name}.tflite"
        path.write_bytes(content)
        codes = predicted(path, images)
        found: dict[str, Any] = {
            "tflite_accuracy": accuracy(codes, labels),
            "file_bytes": len(content),
            "file_sha256": sha256(path),
        }
    if trained is not None:
        outputs = trained.predict(images, batch_size=500, verbose=0)
        same = np.argmax(outputs, axis=-1) == np.argmax(codes, axis=-1)
        found["keras_accuracy"] = accuracy(outputs, labels)
        found["argmax_agreement"] = 100.0 * float(np.mean(same))
    return found


def row(name: str, keras2: Any) -> dict[str, Any]:
    """Makes and measures the file of one peer."""
    start = time.perf_counter()
    model, float_accuracy = float_model(keras2)
    about: dict[str, Any] = {"float_accuracy": float_accuracy}
    if name == "post_training":
        about["calibration_images"] = resnet8.CALIBRATION_IMAGES
        found = measured(name, converted(model, calibration))
    else:
        about |= {"seed": SEED.value, "epochs": EPOCHS.value, "learning_rate": LEARNING_RATE.value}
        qmodel = tfmot_model(keras2, model, name.removeprefix("tfmot_"))
        found = measured(name, converted(qmodel), qmodel)
    versions = {each: importlib.metadata.version(each) for each in _PACKAGES}
    seconds = round(time.perf_counter() - start)
    return {**about, **found, "seconds": seconds, "versions": versions}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    import tf_keras

    tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    path = pathlib.Path(OUTPUT.value)
    rows = json.loads(path.read_text()) if path.exists() else {}
    for name in ROWS.value:
        if name not in rows:
            rows[name] = row(name, tf_keras)
            replace_file(path, (json.dumps(rows, indent=2) + "\n").encode())
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    app.run(main)
