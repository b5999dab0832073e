"""MLPerf Tiny's ResNet-8 on CIFAR-10, from nothing to a proven .tflite file of few bits.

    pip install -e ".[examples]"
    python examples/cifar10_resnet8.py --method=gdnsq --weight_bits=2 --activation_bits=2

tensorflow-datasets downloads CIFAR-10 (163 MB) on the first run. The example trains the float
network, quantizes it, and trains on by one of three methods:

- lsq: learned steps (arXiv 1902.08153);
- gdnsq: bit widths fall from 10 to their targets while the network trains (arXiv 2508.14004);
- pege: elements are replaced by their quantized values, more in every batch (arXiv 2509.00097).

Then it exports the model and runs the file on the 10,000 test images. An epoch takes about half a
minute on two cores, so the whole takes about a quarter of an hour.

The results in --output_dir are float.keras, which the next run takes, and for each run its trained
.keras, its .tflite and its .report.json, and a JSON file with the accuracies. A run that has this
JSON file is not done again.
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
from keras_qat import callbacks, integer

layers = keras.layers

METHOD = flags.DEFINE_enum("method", "lsq", ["lsq", "gdnsq", "pege"], "How to train few bits.")
WEIGHT_BITS = flags.DEFINE_integer("weight_bits", 4, "Bits of weights.", 1, 8)
ACTIVATION_BITS = flags.DEFINE_integer("activation_bits", 4, "Bits of activations.", 1, 8)
MODEL = flags.DEFINE_string("model", None, "A trained float model; without one, it is trained.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of tensorflow-datasets, into which CIFAR-10 is downloaded if missing."
)
FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 20, "Epochs of float training.", 1)
EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs of quantization-aware training.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Batch size.", 1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Adam's highest rate.")
VALIDATION = flags.DEFINE_integer("validation", 5000, "Training images kept for validation.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", "cifar10_resnet8_output", "Where results go.")
VERBOSE = flags.DEFINE_integer("verbose", 1, "Keras' progress: 1 a bar, 2 a line per epoch.")

CONFIGS = {
    "lsq": keras_qat.LSQConfig,
    "gdnsq": keras_qat.GDNSQConfig,
    "pege": keras_qat.PEGEConfig,
}
FLOAT_LEARNING_RATE = 2e-3

Images = tuple[np.ndarray, np.ndarray]


def load(split: str) -> Images:
    """Images as uint8 (N, 32, 32, 3), and labels."""
    dataset = tfds.load(
        "cifar10", split=split, data_dir=DATA_DIR.value, batch_size=-1, as_supervised=True
    )
    images, labels = tfds.as_numpy(dataset)
    return images, labels


def load_splits() -> dict[str, Images]:
    """The last 5,000 training images validate."""
    images, labels = load("train")
    first = len(images) - VALIDATION.value
    return {
        "train": (images[:first], labels[:first]),
        "validation": (images[first:], labels[first:]),
        "test": load("test"),
    }


def build_model() -> keras.Model:
    """ResNet-8 as in MLPerf Tiny: 78,666 parameters, inputs from 0 to 255, probabilities."""

    def conv(x, filters, size=3, strides=1):
        return layers.Conv2D(filters, size, strides, padding="same")(x)

    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(conv(inputs, 16)))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(layers.BatchNormalization()(conv(x, filters, strides=strides)))
        y = layers.BatchNormalization()(conv(y, filters))
        if strides > 1:
            x = conv(x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="resnet8")


def augmented(images: np.ndarray, labels: np.ndarray) -> tf.data.Dataset:
    """Shuffled batches, randomly flipped, and randomly cropped after 4 pixels of zero padding."""

    def augment(image, label):
        image = tf.pad(image, [[4, 4], [4, 4], [0, 0]])
        image = tf.image.random_flip_left_right(tf.image.random_crop(image, (32, 32, 3)))
        return tf.cast(image, tf.float32), label

    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    dataset = dataset.shuffle(len(images), seed=SEED.value).map(augment, num_parallel_calls=2)
    return dataset.batch(BATCH_SIZE.value, drop_remainder=True).prefetch(2)


def fit(model: keras.Model, splits: dict[str, Images], epochs: int, rate: float, *more) -> None:
    """Trains with Adam. The rate falls to 0 along half a cosine, unless GDNSQ schedules it."""
    batches = augmented(*splits["train"])
    plan = rate
    if not any(isinstance(each, callbacks.GDNSQSchedule) for each in more):
        plan = keras.optimizers.schedules.CosineDecay(rate, epochs * len(batches))
    model.compile(
        keras.optimizers.Adam(plan), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    images, labels = splits["validation"]
    model.fit(
        batches,
        epochs=epochs,
        validation_data=(images.astype(np.float32), labels),
        validation_batch_size=500,
        shuffle=False,  # the dataset shuffles itself
        verbose=VERBOSE.value,
        callbacks=list(more),
    )


def float_model(splits: dict[str, Images], folder: pathlib.Path) -> keras.Model:
    """The model of --model, the one that an earlier run trained, or a new one."""
    path = pathlib.Path(MODEL.value) if MODEL.value else folder / "float.keras"
    if MODEL.value or path.exists():
        return keras.models.load_model(path, compile=False)
    keras.utils.set_random_seed(SEED.value)
    model = build_model()
    fit(model, splits, FLOAT_EPOCHS.value, FLOAT_LEARNING_RATE)
    model.save(path)
    return model


def train(model: keras.Model, splits: dict[str, Images]) -> keras_qat.QuantizedModel:
    """Quantizes the float model, and trains it with the callbacks that the method needs."""
    keras.utils.set_random_seed(SEED.value)
    images = splits["train"][0]
    config = CONFIGS[METHOD.value](
        weight_bits=WEIGHT_BITS.value, activation_bits=ACTIVATION_BITS.value
    )
    qmodel = keras_qat.quantize(model, config, calibration_data=images[:512])
    needed = []
    if METHOD.value == "gdnsq":
        needed.append(callbacks.GDNSQSchedule())
    if METHOD.value == "pege":
        needed.append(callbacks.PEGESchedule())
    fit(qmodel, splits, EPOCHS.value, LEARNING_RATE.value, *needed)
    return qmodel


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    return 100.0 * float(np.mean(np.argmax(probabilities, axis=-1) == labels))


def integer_outputs(qmodel: keras_qat.QuantizedModel, images: np.ndarray) -> np.ndarray:
    """The integer model in NumPy, rounding as XNNPACK does."""
    graph = integer.add_headroom(qmodel.to_integer())
    (input_name,), (output_name,) = graph.inputs, graph.outputs
    pixels = graph.tensors[input_name].qparams.quantize(images).astype(np.int8)
    return integer.run(graph, pixels, "xnnpack")[output_name]


def run(splits: dict[str, Images], folder: pathlib.Path, path: pathlib.Path) -> dict:
    """Quantizes, trains, exports to `path`, and evaluates once on the test set."""
    model = float_model(splits, folder)
    trained = path.with_suffix(".keras")
    if trained.exists():
        qmodel = keras_qat.load_model(trained)
    else:
        qmodel = train(model, splits)
        qmodel.save(trained)
    samples = splits["validation"][0][:256].astype(np.float32)
    report = tflite_export.export(qmodel, path, samples=samples)
    report.save_json(path.with_suffix(".report.json"))

    images, labels = splits["test"]
    images = images.astype(np.float32)
    keras_outputs = qmodel.predict(images, batch_size=500, verbose=0)
    file_outputs = tflite_export.predict(path, images)
    same = np.argmax(keras_outputs, axis=-1) == np.argmax(file_outputs, axis=-1)
    return {
        "method": METHOD.value,
        "weight_bits": WEIGHT_BITS.value,
        "activation_bits": ACTIVATION_BITS.value,
        "seed": SEED.value,
        "epochs": EPOCHS.value,
        "learning_rate": LEARNING_RATE.value,
        "batch_size": BATCH_SIZE.value,
        "test_images": len(images),
        "float_accuracy": accuracy(model.predict(images, batch_size=500, verbose=0), labels),
        "qat_accuracy": accuracy(keras_outputs, labels),
        "integer_accuracy": accuracy(integer_outputs(qmodel, images), labels),
        "tflite_accuracy": accuracy(file_outputs, labels),
        "argmax_agreement": 100.0 * float(np.mean(same)),
        "file_bytes": path.stat().st_size,
    }


def render(result: dict) -> Table:
    """The accuracies of the float model, the Keras model, its integers, and its file."""
    bits = f"W{result['weight_bits']}A{result['activation_bits']}"
    table = Table(title=f"ResNet-8 on CIFAR-10, {result['method']}, {bits}, seed {result['seed']}")
    for column in ("", "test accuracy", "bytes"):
        table.add_column(column, justify="right" if column else "left")
    names = {
        "float": "float model",
        "qat": "Keras model",
        "integer": "integers in NumPy",
        "tflite": ".tflite in LiteRT",
    }
    for kind, name in names.items():
        size = f"{result['file_bytes']:,}" if kind == "tflite" else ""
        table.add_row(name, f"{result[f'{kind}_accuracy']:.2f} %", size)
    return table


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    folder = pathlib.Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"w{WEIGHT_BITS.value}a{ACTIVATION_BITS.value}_{METHOD.value}_seed{SEED.value}"
    path = folder / f"{name}.json"
    if path.exists():
        print(f"{path} is there already: not done again.")
    else:
        result = run(load_splits(), folder, path.with_suffix(".tflite"))
        path.write_text(json.dumps(result, indent=2) + "\n")
    result = json.loads(path.read_text())
    console = Console()
    console.print(render(result))
    console.print(
        f"The file and the Keras model choose the same class for "
        f"{result['argmax_agreement']:.2f} % of {result['test_images']:,} test images."
    )


if __name__ == "__main__":
    app.run(main)
