"""MLPerf Tiny's ResNet-8 on CIFAR-10: from the trained float model to a proven .tflite file.

    python examples/cifar10_resnet8.py --model=resnet8_cifar10.keras --data_dir=tensorflow_datasets

For each bit width it quantizes weights and activations with LSQ, trains a few epochs, exports, and
evaluates the file once on the whole test set. Each run writes its trained .keras, its .tflite and a
JSON file to --output_dir. Runs that have their JSON file are skipped, so an interrupted series goes
on where it stopped.
"""

import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

import keras_qat
import tflite_export
from keras_qat import integer

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"

MODEL = flags.DEFINE_string(
    "model", str(SHARED / "models" / "resnet8_cifar10.keras"), "The trained float model."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", str(SHARED / "data" / "tfds"), "tensorflow-datasets folder that holds CIFAR-10."
)
BITS = flags.DEFINE_multi_integer("bits", [8, 4], "Bits of weights and activations.")
SEEDS = flags.DEFINE_multi_integer("seed", [0], "Random seeds; one run for each.")
EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs of quantization-aware training.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Batch size.", 1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Initial rate of Adam's cosine decay.")
VALIDATION = flags.DEFINE_integer("validation", 5000, "Training images kept for validation.", 1)
OUTPUT_DIR = flags.DEFINE_string("output_dir", "cifar10_resnet8_output", "Where results go.")
VERBOSE = flags.DEFINE_integer("verbose", 1, "Keras' progress: 1 a bar, 2 a line per epoch.")


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images as uint8 (N, 32, 32, 3), and labels."""
    dataset = tfds.load(
        "cifar10",
        split=split,
        data_dir=DATA_DIR.value,
        download=False,
        batch_size=-1,
        as_supervised=True,
    )
    images, labels = tfds.as_numpy(dataset)
    return images, labels


def augmented(images: np.ndarray, labels: np.ndarray, seed: int) -> tf.data.Dataset:
    """Shuffled batches, randomly flipped, and randomly cropped after 4 pixels of zero padding."""

    def augment(image, label):
        image = tf.pad(image, [[4, 4], [4, 4], [0, 0]])
        image = tf.image.random_flip_left_right(tf.image.random_crop(image, (32, 32, 3)))
        return tf.cast(image, tf.float32), label

    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    dataset = dataset.shuffle(len(images), seed=seed).map(augment, num_parallel_calls=2)
    return dataset.batch(BATCH_SIZE.value, drop_remainder=True).prefetch(2)


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    return 100.0 * float(np.mean(np.argmax(probabilities, axis=-1) == labels))


def train(bits: int, seed: int, data: dict) -> keras_qat.QuantizedModel:
    """Quantizes the float model and trains it."""
    float_model = keras.models.load_model(MODEL.value, compile=False)
    images, labels = data["train"]
    qmodel = keras_qat.quantize(
        float_model,
        keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits),
        calibration_data=images[:512],
    )
    batches = augmented(images, labels, seed)
    steps = EPOCHS.value * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE.value, steps)
    qmodel.compile(
        keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    validation_images, validation_labels = data["validation"]
    qmodel.fit(
        batches,
        epochs=EPOCHS.value,
        validation_data=(validation_images.astype(np.float32), validation_labels),
        validation_batch_size=500,
        shuffle=False,  # the dataset shuffles itself
        verbose=VERBOSE.value,
    )
    return qmodel


def run(bits: int, seed: int, data: dict, folder: pathlib.Path) -> dict:
    """Does one run: quantizes, trains, exports, and evaluates on the test set."""
    path = folder / f"resnet8_w{bits}a{bits}_seed{seed}.tflite"
    trained = path.with_suffix(".keras")
    if trained.exists():
        qmodel = keras_qat.load_model(trained)
    else:
        keras.utils.set_random_seed(seed)
        qmodel = train(bits, seed, data)
        qmodel.save(trained)
    validation_images = data["validation"][0][:256].astype(np.float32)
    report = tflite_export.export(qmodel, path, samples=validation_images)
    report.save_json(path.with_suffix(".report.json"))

    images, labels = data["test"]
    images = images.astype(np.float32)
    graph = integer.add_headroom(qmodel.to_integer())
    (input_name,), (output_name,) = graph.inputs, graph.outputs
    pixels = graph.tensors[input_name].qparams.quantize(images).astype(np.int8)
    keras_outputs = qmodel.predict(images, batch_size=500, verbose=0)
    integer_outputs = integer.run(graph, pixels, "xnnpack")[output_name]
    file_outputs = tflite_export.predict(path, images)
    same = np.argmax(keras_outputs, axis=-1) == np.argmax(file_outputs, axis=-1)
    return {
        "bits": bits,
        "seed": seed,
        "epochs": EPOCHS.value,
        "learning_rate": LEARNING_RATE.value,
        "batch_size": BATCH_SIZE.value,
        "test_images": len(images),
        "float_accuracy": data["float_accuracy"],
        "qat_accuracy": accuracy(keras_outputs, labels),
        "integer_accuracy": accuracy(integer_outputs, labels),
        "tflite_accuracy": accuracy(file_outputs, labels),
        "argmax_agreement": 100.0 * float(np.mean(same)),
        "file_bytes": path.stat().st_size,
    }


def render(results: list[dict]) -> Table:
    """The results as a table, one row per run."""
    table = Table(title="ResNet-8 on CIFAR-10, accuracy in % of the test set")
    columns = ["bits", "seed", "float", "QAT", "integer", ".tflite", "argmax agreement", "bytes"]
    for column in columns:
        table.add_column(column, justify="right")
    for r in results:
        table.add_row(
            f"W{r['bits']}A{r['bits']}",
            str(r["seed"]),
            *(f"{r[f'{kind}_accuracy']:.2f}" for kind in ("float", "qat", "integer", "tflite")),
            f"{r['argmax_agreement']:.2f} %",
            f"{r['file_bytes']:,}",
        )
    return table


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    folder = pathlib.Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = load("train")
    split = len(images) - VALIDATION.value
    data = {
        "train": (images[:split], labels[:split]),
        "validation": (images[split:], labels[split:]),
        "test": load("test"),
    }
    float_model = keras.models.load_model(MODEL.value, compile=False)
    test_images, test_labels = data["test"]
    outputs = float_model.predict(test_images.astype(np.float32), batch_size=500, verbose=0)
    data["float_accuracy"] = accuracy(outputs, test_labels)

    results = []
    for bits in BITS.value:
        for seed in SEEDS.value:
            path = folder / f"w{bits}a{bits}_seed{seed}.json"
            if path.exists():
                print(f"{path} is there already: skipped.")
            else:
                path.write_text(json.dumps(run(bits, seed, data, folder), indent=2) + "\n")
            results.append(json.loads(path.read_text()))
    Console().print(render(results))


if __name__ == "__main__":
    app.run(main)
