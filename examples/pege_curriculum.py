"""PEGE in one picture: elements are replaced by their quantized values, more in every batch.

    python examples/pege_curriculum.py

PEGE (arXiv 2509.00097) begins with a float network. In every batch it replaces a share p of all
weights and activations by their quantized values, and p rises to 1 along a logarithmic curriculum.
Meanwhile weights and activations of 2 bits and more are pulled to their codes. In the second half
the pull of weights rises, so that they settle: an addition, after arXiv 2203.11086. The example
trains a small float network on scikit-learn's digits, trains it on with PEGE at 2 bits (8 bits at
both ends and before the Add), exports it, and runs the file. It takes about a minute.

The results in --output_dir are model.tflite, report.json and curriculum.png.

- Top: the share of quantized elements in training.
- Middle: how far the values of each tensor are from their codes.
- Bottom: the accuracy of the mixed network in training, and of the quantized one in validation.
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
from keras_qat.callbacks import PEGESchedule

BITS = flags.DEFINE_integer("bits", 2, "Bits of weights and activations.", 1, 8)
END = flags.DEFINE_float("end", 0.5, "The share of the run over which p rises to 1.", 0.0, 1.0)
FINAL_STRENGTH = flags.DEFINE_float(
    "final_strength", 5.0, "The pull of weights at the end; it rises in the second half.", 0.0
)
FLOAT_EPOCHS = flags.DEFINE_integer("float_epochs", 30, "Epochs of float training.", 1)
QAT_EPOCHS = flags.DEFINE_integer("qat_epochs", 30, "Epochs of quantization-aware training.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Random seed.")
OUTPUT_DIR = flags.DEFINE_string("output_dir", "pege_curriculum_output", "Folder for the results.")

COLORS = {"weights": "tab:blue", "activations": "tab:orange"}


class ShareRecorder(keras.callbacks.Callback):
    """Records the share of quantized elements in every batch."""

    def __init__(self):
        super().__init__()
        self.shares: list[float] = []

    def on_train_batch_end(self, batch, logs=None):
        quantizer = next(iter(self.model.replaced_quantizers.values()))
        self.shares.append(float(keras.ops.convert_to_numpy(quantizer.replaced_share)))


def draw(
    shares: list[float],
    errors: dict[str, list[float]],
    logs: dict[str, list[float]],
    float_accuracy: float,
) -> matplotlib.figure.Figure:
    """Three panels over the batches of the run: the share, the errors, and accuracies."""
    ends = len(shares) / len(logs["loss"]) * np.arange(1, len(logs["loss"]) + 1)
    figure = matplotlib.figure.Figure(figsize=(9, 8.5), layout="constrained")
    share, error, accuracy = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2.6, 2.2))

    share.fill_between(range(len(shares)), 100 * np.array(shares), color="tab:green", alpha=0.3)
    share.plot(100 * np.array(shares), color="tab:green")
    share.set_ylim(0, 105)
    share.set_ylabel("quantized elements, %")
    share.set_title("The curriculum p(k): what is quantized in batch k", loc="left", fontsize=11)

    for name, values in errors.items():
        color = COLORS["weights" if "/weights" in name else "activations"]
        error.plot(ends, 100 * np.sqrt(values), color=color, linewidth=1.3, alpha=0.8)
    for kind, color in COLORS.items():
        error.plot([], [], color=color, label=kind)
    error.legend(title="one line for each tensor", fontsize=9, loc=(0.02, 0.2))
    error.set_ylim(0)
    error.set_ylabel("rms error, % of the range")
    error.set_title("Discretization error: distance of values to codes", loc="left", fontsize=11)
    error.annotate(
        "the pull of weights rises", (len(shares) / 2, 3.6), (6, 0),
        textcoords="offset points", fontsize=9, va="center",
    )  # fmt: skip
    error.axvline(len(shares) / 2, color="tab:blue", linestyle="--", linewidth=1)

    accuracy.plot(
        ends, 100 * np.array(logs["accuracy"]), color="tab:green", label="in training, mixed"
    )
    accuracy.plot(
        ends, 100 * np.array(logs["val_accuracy"]), color="black", label="validation, all quantized"
    )
    accuracy.axhline(float_accuracy, color="0.3", linestyle=":", label="validation, float model")
    accuracy.set_ylabel("accuracy, %")
    accuracy.set_xlabel("batch")
    accuracy.set_title("Accuracy", loc="left", fontsize=11)
    accuracy.legend(fontsize=9, loc="lower right")

    full = next((batch for batch, p in enumerate(shares) if p == 1.0), None)
    for axes in (share, error, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, len(shares))
    if full is not None:
        for axes in (share, accuracy):
            axes.axvline(full, color="tab:green", linestyle="--", linewidth=1)
        share.annotate(
            "from here on training sees the network that ships", (full, 50), (6, 0),
            textcoords="offset points", fontsize=9, va="center",
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
        keras_qat.PEGEConfig(weight_bits=BITS.value, activation_bits=BITS.value),
        calibration_data=images[:512],
    )
    schedule = PEGESchedule(end=END.value, final_strength=FINAL_STRENGTH.value)
    recorder = ShareRecorder()
    logs = digits.train(qmodel, splits, QAT_EPOCHS.value, 2e-3, schedule, recorder).history

    path = folder / "model.tflite"
    report = tflite_export.export(qmodel, path, samples=splits["validation"][0][:256])
    report.save_json(folder / "report.json")
    float_accuracy = 100 * float_logs["val_accuracy"][-1]
    figure = draw(recorder.shares, schedule.errors, logs, float_accuracy)
    figure.savefig(folder / "curriculum.png", dpi=120)

    method = f"PEGE, W{BITS.value}A{BITS.value}"
    digits.print_accuracies(model, qmodel, path, splits, method)
    print(
        f"{report.mismatches} of {report.compared_elements:,} elements differ between file and "
        f"integers.\nFiles in {folder}/: model.tflite, report.json, curriculum.png."
        f"\n{time.perf_counter() - start:.0f} seconds."
    )


if __name__ == "__main__":
    app.run(main)
