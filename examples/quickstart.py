"""From a float Keras model to a proven integer .tflite file, in a few minutes on a laptop.

    python examples/quickstart.py

It trains a small convolutional network on real images: scikit-learn's handwritten digits, which
ship inside that package, or any image set of tensorflow-datasets. Then it quantizes weights and
activations to 4 bits, trains on, exports, and runs the file in the LiteRT interpreter.

The results in --output_dir are model.tflite, report.json and grids.png.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

import keras_qat
import tflite_export
from keras_qat import integer

layers = keras.layers

DATASET = flags.DEFINE_string(
    "dataset", "digits", "'digits', or the name of an image set of tensorflow-datasets."
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "tensorflow-datasets folder of that image set.")
BITS = flags.DEFINE_integer("bits", 4, "Bits of weights and activations.", 1, 8)
FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 40, "Epochs of float training.", 1)
QAT_EPOCHS = flags.DEFINE_integer("qat_epochs", 20, "Epochs of quantization-aware training.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", "quickstart_output", "Folder for the results.")

Split = tuple[np.ndarray, np.ndarray]


def load_digits() -> dict[str, Split]:
    """1,797 handwritten digits, 8x8 gray pixels from 0 to 16: 60 % train, 20 % each the others."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images[..., None].astype(np.float32)
    train_x, rest_x, train_y, rest_y = train_test_split(
        images, digits.target, test_size=0.4, random_state=SEED.value, stratify=digits.target
    )
    validation_x, test_x, validation_y, test_y = train_test_split(
        rest_x, rest_y, test_size=0.5, random_state=SEED.value, stratify=rest_y
    )
    return {
        "train": (train_x, train_y),
        "validation": (validation_x, validation_y),
        "test": (test_x, test_y),
    }


def load_tfds(name: str) -> dict[str, Split]:
    """An image set of tensorflow-datasets. The last tenth of its training split validates."""
    import tensorflow_datasets as tfds

    parts = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
    splits = {}
    for part, split in parts.items():
        dataset = tfds.load(
            name, split=split, data_dir=DATA_DIR.value, batch_size=-1, as_supervised=True
        )
        images, labels = tfds.as_numpy(dataset)
        splits[part] = (images.astype(np.float32), labels)
    return splits


def build_model(splits: dict[str, Split]) -> keras.Model:
    """A network with a residual Add, a depthwise-separable block and a softmax head."""
    images, labels = splits["train"]
    inputs = keras.Input(images.shape[1:], name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    shortcut = x = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="residual")(x)
    x = layers.BatchNormalization(name="residual_bn")(x)
    x = layers.Add(name="add")([shortcut, x])
    x = layers.ReLU(name="add_relu")(x)
    x = layers.SeparableConv2D(32, 3, strides=2, padding="same", use_bias=False, name="sep")(x)
    x = layers.BatchNormalization(name="sep_bn")(x)
    x = layers.ReLU(name="sep_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(int(labels.max()) + 1, activation="softmax", name="head")(x)
    return keras.Model(inputs, outputs, name="quickstart")


def train(model: keras.Model, splits: dict[str, Split], epochs: int, learning_rate: float) -> None:
    """Trains with Adam and cosine decay, and prints a line per epoch."""
    images, labels = splits["train"]
    batch_size = 32 if len(images) < 10_000 else 128
    steps = epochs * -(-len(images) // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(
        images,
        labels,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=splits["validation"],
        verbose=2,
    )


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    return 100.0 * float(np.mean(np.argmax(outputs, axis=-1) == labels))


def integer_outputs(qmodel: keras_qat.QuantizedModel, images: np.ndarray) -> np.ndarray:
    """The integer model in NumPy, rounding as XNNPACK does."""
    graph = integer.add_headroom(qmodel.to_integer())
    (input_name,), (output_name,) = graph.inputs, graph.outputs
    pixels = graph.tensors[input_name].qparams.quantize(images).astype(np.int8)
    return integer.run(graph, pixels, "xnnpack")[output_name]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    start = time.perf_counter()
    folder = pathlib.Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED.value)
    splits = load_digits() if DATASET.value == "digits" else load_tfds(DATASET.value)
    train_images, (test_images, test_labels) = splits["train"][0], splits["test"]

    model = build_model(splits)
    train(model, splits, FLOAT_EPOCHS.value, learning_rate=3e-3)

    config = keras_qat.LSQConfig(weight_bits=BITS.value, activation_bits=BITS.value)
    qmodel = keras_qat.quantize(model, config, calibration_data=train_images[:512])
    qmodel.summary()
    train(qmodel, splits, QAT_EPOCHS.value, learning_rate=1e-3)

    path = folder / "model.tflite"
    report = tflite_export.export(qmodel, path, samples=splits["validation"][0][:256])
    report.save_json(folder / "report.json")
    keras_qat.plot_grids(qmodel, train_images[:256]).savefig(folder / "grids.png", dpi=110)

    outputs = {
        "float model": model.predict(test_images, verbose=0),
        "QAT model": qmodel.predict(test_images, verbose=0),
        "integer reference": integer_outputs(qmodel, test_images),
        "LiteRT (XNNPACK)": tflite_export.predict(path, test_images),
    }
    sizes = {"float model": 4 * model.count_params(), "LiteRT (XNNPACK)": path.stat().st_size}
    table = Table(title=f"{DATASET.value}, W{BITS.value}A{BITS.value}, seed {SEED.value}")
    for column in ("", "test accuracy", "bytes", "mismatches"):
        table.add_column(column, justify="left" if not column else "right")
    mismatches = f"{report.mismatches} of {report.compared_elements:,}"
    for name, values in outputs.items():
        table.add_row(
            name,
            f"{accuracy(values, test_labels):.2f} %",
            f"{sizes[name]:,}" if name in sizes else "",
            mismatches if name == "LiteRT (XNNPACK)" else "",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{len(test_images)} test images; mismatches: file against integer reference, all runtimes."
        f"\nFiles in {folder}/: model.tflite, report.json, grids.png."
        f"\n{time.perf_counter() - start:.0f} seconds."
    )


if __name__ == "__main__":
    app.run(main)
