"""GDNSQ in one picture: bit widths fall from 10 bits to their targets, and accuracy recovers.

    python examples/gdnsq_capacity.py

GDNSQ (arXiv 2508.14004) learns the bit width of every channel of the weights and of every
activation. A penalty on widths above their targets grows with every batch. The example trains a
small float network on scikit-learn's digits, lets its widths fall to 2 bits (8 bits at both ends
and before the Add), exports the model, and runs the file. It takes about a minute.

The results in --output_dir are model.tflite, report.json and capacity.png.

- Top: the width of the widest channel of every layer, its target dashed.
- Middle: the capacity of every quantizer, in bits that it lets through of each value.
- Bottom: the accuracy on validation images, and the penalty.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import digits
import keras
import matplotlib.figure
import numpy as np
from absl import app, flags

import keras_qat
import tflite_export
from keras_qat.callbacks import BitWidthMonitor, CapacityMonitor, GDNSQSchedule

BITS = flags.DEFINE_integer("bits", 2, "Target of weights and activations.", 1, 8)
FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 30, "Epochs of float training.", 1)
QAT_EPOCHS = flags.DEFINE_integer("qat_epochs", 40, "Epochs of quantization-aware training.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", "gdnsq_capacity_output", "Folder for the results.")

COLORS = {"weights": "tab:blue", "activations": "tab:orange"}


def draw(
    learned: BitWidthMonitor,
    monitor: CapacityMonitor,
    logs: dict[str, list[float]],
    float_accuracy: float,
    met_at: int | None,
) -> matplotlib.figure.Figure:
    """Three panels over the batches of the run: widths, capacities, and accuracy with penalty."""
    epochs, batches = len(logs["loss"]), learned.history["batches"]
    ends = batches[-1] / epochs * np.arange(1, epochs + 1)
    figure = matplotlib.figure.Figure(figsize=(9, 8.5), layout="constrained")
    widths, capacities, accuracy = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2.2, 2.2))

    for name, tensor in learned.history["tensors"].items():
        color = COLORS[name.rpartition("/")[2]]
        widths.plot(batches, tensor["max_bits"], color=color, linewidth=1.3, alpha=0.8)
    targets = sorted({tensor["target_bits"] for tensor in monitor.history["tensors"].values()})
    for target in targets:
        widths.axhline(target, color="0.3", linestyle="--", linewidth=1)
        widths.annotate(
            f"target: {target} bits", (1.0, target), (-4, 4), ha="right", fontsize=9,
            xycoords=("axes fraction", "data"), textcoords="offset points",
        )  # fmt: skip
    for kind, color in COLORS.items():
        widths.plot([], [], color=color, label=kind)
    widths.legend(title="one line for each quantizer", fontsize=9, loc=(0.76, 0.4))
    widths.set_ylim(0, 10.8)
    widths.set_ylabel("bits")
    widths.set_title("Learned bit width of the widest channel", loc="left", fontsize=11)

    for tensor in monitor.history["tensors"].values():
        color = COLORS[tensor["kind"]]
        capacities.plot(ends, tensor["bits_per_value"], color=color, linewidth=1.3, alpha=0.8)
    capacities.set_ylim(0)
    capacities.set_ylabel("bits per value")
    capacities.set_title("Capacity of each quantizer as a noisy channel", loc="left", fontsize=11)

    accuracy.plot(ends, 100 * np.array(logs["val_accuracy"]), color="black", label="accuracy")
    accuracy.axhline(float_accuracy, color="0.3", linestyle=":", label="float model")
    accuracy.set_ylabel("validation accuracy, %")
    accuracy.set_xlabel("batch")
    accuracy.set_title("Accuracy, and the penalty on widths above target", loc="left", fontsize=11)
    right = accuracy.twinx()
    penalty = np.maximum(0.0, np.subtract(logs["loss"], logs["task_loss"]))
    right.fill_between(ends, penalty, color="tab:red", alpha=0.25, linewidth=0)
    right.set_ylim(0)
    right.set_ylabel("penalty in the loss", color="tab:red")
    accuracy.set_zorder(right.get_zorder() + 1)
    accuracy.patch.set_visible(False)
    accuracy.legend(fontsize=9, loc="lower right")

    for axes in (widths, capacities, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, ends[-1])
        if met_at is not None:
            axes.axvline(met_at, color="tab:green", linewidth=1.2)
    if met_at is not None:
        widths.annotate(
            f"all targets are met after {met_at} batches", (met_at, 9.9), (5, 0),
            textcoords="offset points", color="tab:green", fontsize=9, va="center",
        )  # fmt: skip
    return figure


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    start = time.perf_counter()
    folder = pathlib.Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED.value)
    splits = digits.load(SEED.value)
    model = digits.build_model(splits)
    float_logs = digits.train(model, splits, FLOAT_EPOCHS.value, 3e-3).history

    images = splits["train"][0]
    qmodel = keras_qat.quantize(
        model,
        keras_qat.GDNSQConfig(weight_bits=BITS.value, activation_bits=BITS.value),
        calibration_data=images[:512],
    )
    schedule, learned, monitor = GDNSQSchedule(), BitWidthMonitor(8), CapacityMonitor(images[:256])
    callbacks = (schedule, learned, monitor)
    logs = digits.train(qmodel, splits, QAT_EPOCHS.value, 3e-3, *callbacks).history

    path = folder / "model.tflite"
    report = tflite_export.export(qmodel, path, samples=splits["validation"][0][:256])
    report.save_json(folder / "report.json")
    float_accuracy = 100 * float_logs["val_accuracy"][-1]
    figure = draw(learned, monitor, logs, float_accuracy, schedule.targets_met_at)
    figure.savefig(folder / "capacity.png", dpi=120)

    method = f"GDNSQ, W{BITS.value}A{BITS.value}"
    digits.print_accuracies(model, qmodel, path, splits, method)
    print(
        f"{report.mismatches} of {report.compared_elements:,} elements differ between file and "
        f"integers.\nFiles in {folder}/: model.tflite, report.json, capacity.png."
        f"\n{time.perf_counter() - start:.0f} seconds."
    )


if __name__ == "__main__":
    app.run(main)
