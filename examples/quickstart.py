"""From a float Keras model to proven integer .tflite files, in about a minute on a laptop.

    python examples/quickstart.py

It trains a small convolutional network on real images: scikit-learn's handwritten digits, which
ship inside that package, or any image set of tensorflow-datasets. Then it quantizes the network
twice, trains on, exports, and runs both files in the LiteRT interpreter:

- LSQ with weights and activations of 8 bits, which learns the steps;
- GDNSQ with 2 bits, whose bit widths fall from 10 to 2 while the network trains.

The results in --output_dir are lsq_w8a8.tflite and gdnsq_w2a2.tflite, a .report.json for each, and
grids.png: every layer's weights and activations on the grids of GDNSQ.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import digits
import keras
import numpy as np
from absl import app, flags
from digits import Split, accuracy
from rich.console import Console
from rich.table import Table

import keras_qat
import tflite_export
from keras_qat.callbacks import GDNSQSchedule

DATASET = flags.DEFINE_string(
    "dataset", "digits", "'digits', or the name of an image set of tensorflow-datasets."
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "tensorflow-datasets folder of that image set.")
LSQ_BITS = flags.DEFINE_integer("lsq_bits", 8, "Bits of LSQ's weights and activations.", 1, 8)
GDNSQ_BITS = flags.DEFINE_integer("gdnsq_bits", 2, "Bits of GDNSQ's weights and activations.", 1, 8)
FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 30, "Epochs of float training.", 1)
LSQ_EPOCHS = flags.DEFINE_integer("lsq_epochs", 10, "Epochs of LSQ.", 1)
GDNSQ_EPOCHS = flags.DEFINE_integer("gdnsq_epochs", 40, "Epochs of GDNSQ.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", "quickstart_output", "Folder for the results.")

COLUMNS = (
    *("", "Keras model", ".tflite in LiteRT", "same answers", "elements that differ"),
    *("bytes", "flash in TFLite Micro"),
)


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


def train_lsq(model: keras.Model, splits: dict[str, Split]) -> keras_qat.QuantizedModel:
    """Learned steps."""
    config = keras_qat.LSQConfig(weight_bits=LSQ_BITS.value, activation_bits=LSQ_BITS.value)
    qmodel = keras_qat.quantize(model, config, calibration_data=splits["train"][0][:512])
    digits.train(qmodel, splits, LSQ_EPOCHS.value, 1e-3)
    return qmodel


def train_gdnsq(model: keras.Model, splits: dict[str, Split]) -> keras_qat.QuantizedModel:
    """Learned steps and bit widths."""
    config = keras_qat.GDNSQConfig(weight_bits=GDNSQ_BITS.value, activation_bits=GDNSQ_BITS.value)
    qmodel = keras_qat.quantize(model, config, calibration_data=splits["train"][0][:512])
    digits.train(qmodel, splits, GDNSQ_EPOCHS.value, 3e-3, GDNSQSchedule())
    return qmodel


def exported_row(
    qmodel: keras_qat.QuantizedModel, splits: dict[str, Split], path: pathlib.Path
) -> list[str]:
    """Exports to `path`, and returns what the table says of the model and its file."""
    report = tflite_export.export(qmodel, path, samples=splits["validation"][0][:256])
    report.save_json(path.with_suffix(".report.json"))
    images, labels = splits["test"]
    outputs, of_file = qmodel.predict(images, verbose=0), tflite_export.predict(path, images)
    same = np.mean(np.argmax(outputs, axis=-1) == np.argmax(of_file, axis=-1))
    return [
        f"{accuracy(outputs, labels):.2f} %",
        f"{accuracy(of_file, labels):.2f} %",
        f"{100 * same:.2f} %",
        f"{report.mismatches} of {report.compared_elements / 1e6:.1f} million",
        f"{path.stat().st_size:,}",
        f"{tflite_export.plan_memory(qmodel, 'lut').flash_bytes:,}",
    ]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    start = time.perf_counter()
    folder = pathlib.Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED.value)
    splits = digits.load(SEED.value) if DATASET.value == "digits" else load_tfds(DATASET.value)

    model = digits.build_model(splits)
    digits.train(model, splits, FLOAT_EPOCHS.value, 3e-3)
    lsq = train_lsq(model, splits)
    gdnsq = train_gdnsq(model, splits)
    gdnsq.summary()
    keras_qat.plot_grids(gdnsq, splits["train"][0][:256]).savefig(folder / "grids.png", dpi=110)

    images, labels = splits["test"]
    table = Table(title=f"{DATASET.value}, {len(labels)} test images, seed {SEED.value}")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    floats = f"{accuracy(model.predict(images, verbose=0), labels):.2f} %"
    table.add_row("float", floats, "", "", "", f"{4 * model.count_params():,}", "")
    quantized = {"LSQ": (lsq, LSQ_BITS.value), "GDNSQ": (gdnsq, GDNSQ_BITS.value)}
    files = []
    for name, (qmodel, bits) in quantized.items():
        path = folder / f"{name.lower()}_w{bits}a{bits}.tflite"
        table.add_row(f"{name} W{bits}A{bits}", *exported_row(qmodel, splits, path))
        files.append(path.name)
    console = Console()
    console.print(table)
    console.print(
        "Same answers: how often file and Keras model choose one class. Elements that differ: file "
        "against integers, in all runtimes.\nLiteRT stores a weight of any width in a byte. TFLite "
        "Micro stores fewer bits as such, read by 22,000 bytes of code.\n"
        f"Files in {folder}/: {', '.join(files)}, their reports, grids.png.\n"
        f"{time.perf_counter() - start:.0f} seconds."
    )


if __name__ == "__main__":
    app.run(main)
