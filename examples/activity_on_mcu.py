"""From motion sensors to a microcontroller: a 3-bit network as C++ sources, proven in TFLM.

    pip install -e ".[examples,tflm]"
    python examples/activity_on_mcu.py --data_dir="UCI HAR Dataset"

The network tells six human activities from 2.56 seconds of an accelerometer and a gyroscope. Its
data is UCI HAR: unpack it from https://archive.ics.uci.edu/dataset/240.

The example plans flash and RAM, and trains a small convolutional network. Then it quantizes weights
to 3 bits and activations to 8 bits, and trains on. At the end it writes the sources that a project
with TensorFlow Lite Micro compiles.

The test set has other people than the training set. The last five people of the training set
validate.

The results in --output_dir are the folder firmware/, and memory.png.
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

layers = keras.layers

DATA_DIR = flags.DEFINE_string("data_dir", "UCI HAR Dataset", "The unpacked data set.")
FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 15, "Epochs of float training.", 1)
QAT_EPOCHS = flags.DEFINE_integer("qat_epochs", 10, "Epochs of quantization-aware training.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", "activity_output", "Folder for the results.")

ACTIVITIES = ("walking", "upstairs", "downstairs", "sitting", "standing", "lying")
SIGNALS = [f"{kind}_{axis}" for kind in ("total_acc", "body_gyro") for axis in "xyz"]
VALIDATION_PEOPLE = 5

Split = tuple[np.ndarray, np.ndarray]


def load_windows(folder: pathlib.Path, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows (N, 128, 1, 6) in g and rad/s, activities from 0 to 5, and numbers of the people."""
    try:
        signals = [
            np.loadtxt(folder / part / "Inertial Signals" / f"{name}_{part}.txt", dtype=np.float32)
            for name in SIGNALS
        ]
        labels = np.loadtxt(folder / part / f"y_{part}.txt", dtype=np.int64) - 1
        people = np.loadtxt(folder / part / f"subject_{part}.txt", dtype=np.int64)
    except FileNotFoundError as error:
        raise app.UsageError(
            f"{folder} is not the unpacked UCI HAR data set: {error}. Get it from "
            "https://archive.ics.uci.edu/dataset/240 and pass --data_dir."
        ) from error
    return np.stack(signals, axis=-1)[:, :, None, :], labels, people


def load_splits() -> dict[str, Split]:
    """Windows for training, validation and test. No two splits share a person."""
    folder = pathlib.Path(DATA_DIR.value)
    windows, labels, people = load_windows(folder, "train")
    validates = np.isin(people, np.unique(people)[-VALIDATION_PEOPLE:])
    return {
        "train": (windows[~validates], labels[~validates]),
        "validation": (windows[validates], labels[validates]),
        "test": load_windows(folder, "test")[:2],
    }


def build_model() -> keras.Model:
    """Three convolutions over time; the second axis has size 1."""
    x = inputs = keras.Input((128, 1, 6), name="motion")
    for index, (filters, width) in enumerate(((16, 9), (24, 5), (32, 5))):
        x = layers.Conv2D(filters, (width, 1), padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU(name=f"relu_{index}")(x)
        x = layers.MaxPooling2D((2, 1))(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.3)(x)
    outputs = layers.Dense(len(ACTIVITIES), activation="softmax", name="activity")(x)
    return keras.Model(inputs, outputs, name="activity")


def train(model: keras.Model, splits: dict[str, Split], epochs: int, learning_rate: float) -> None:
    """Trains with Adam and cosine decay, and prints a line per epoch."""
    windows, labels = splits["train"]
    steps = epochs * -(-len(windows) // 64)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    validation = splits["validation"]
    model.fit(windows, labels, batch_size=64, epochs=epochs, validation_data=validation, verbose=2)


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    return 100.0 * float(np.mean(np.argmax(outputs, axis=-1) == labels))


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    start = time.perf_counter()
    folder = pathlib.Path(OUTPUT_DIR.value)
    keras.utils.set_random_seed(SEED.value)
    splits = load_splits()
    model = build_model()
    config = keras_qat.LSQConfig(weight_bits=3, activation_bits=8)
    calibration = splits["train"][0][:512]

    untrained = keras_qat.quantize(model, config, calibration_data=calibration)
    print("What it will take, known before training:")
    print(tflite_export.plan_memory(untrained).render())

    train(model, splits, FLOAT_EPOCHS.value, learning_rate=3e-3)
    qmodel = keras_qat.quantize(model, config, calibration_data=calibration)
    train(qmodel, splits, QAT_EPOCHS.value, learning_rate=1e-3)

    firmware = tflite_export.write_micro(
        qmodel, folder / "firmware", name="activity", samples=splits["validation"][0][:256]
    )
    plan = tflite_export.plan_memory(qmodel)
    tflite_export.plot_memory(plan, folder / "memory.png")

    windows, labels = splits["test"]
    outputs = {
        "float model": model.predict(windows, verbose=0),
        "QAT model": qmodel.predict(windows, verbose=0),
        "TensorFlow Lite Micro": tflite_export.predict(
            folder / "firmware" / "activity.tflite", windows, runtime="tflm"
        ),
    }
    table = Table(title=f"{len(windows)} windows of people the network never saw, W3A8")
    for column in ("", "test accuracy", "flash", "RAM", "mismatches"):
        table.add_column(column, justify="left" if not column else "right")
    report = firmware.report
    device = (
        f"{report.file_bytes:,}",
        f"{firmware.measured_arena_bytes:,}",
        f"{report.mismatches} of {report.compared_elements:,}",
    )
    for name, values in outputs.items():
        columns = device if name == "TensorFlow Lite Micro" else ("", "", "")
        table.add_row(name, f"{accuracy(values, labels):.2f} %", *columns)
    console = Console()
    console.print(table)
    console.print(
        f"Bytes; mismatches: every tensor of the file in TensorFlow Lite Micro against the integer "
        f"reference.\nFiles in {folder}/: firmware/, memory.png."
        f"\n{time.perf_counter() - start:.0f} seconds."
    )


if __name__ == "__main__":
    app.run(main)
