"""Checks the rankings of `CapacityMonitor.bottlenecks` against the drop that a tensor causes.

    python benchmarks/bottleneck_ranking.py

The truth: the trained float ResNet-8 is quantized to 8 bits, and one tensor to --bits (its weights,
or its activations), without any training. The drop is what this one tensor costs on --images
validation images. The test set is not used.

The rankings see none of this. They are read from the network with all tensors at each --width,
and from short trainings down to each --target. Spearman's rank correlation with the drop says
what a ranking is worth: 1 if it names the tensors in the true order, 0 if it says nothing.

Results are in --output, a JSON file. Parts that are in it are not measured again. `--report_only`
writes the table from it.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import resnet8
from absl import app, flags
from scipy.stats import spearmanr

import keras_qat
from keras_qat.callbacks import CapacityMonitor, GDNSQSchedule
from keras_qat.callbacks.bottlenecks import ranking_scores
from keras_qat.integer.files import replace_file

BITS = flags.DEFINE_integer("bits", 2, "The bits of the one tensor.", 1, 8)
WIDTHS = flags.DEFINE_multi_integer("width", [8, 4], "Widths of networks that rankings see.")
IMAGES = flags.DEFINE_integer("images", 2000, "Validation images that measure a drop.", 1)
PROBED = flags.DEFINE_integer("probed", 512, "Training images that the rankings see.", 1)
TARGETS = flags.DEFINE_multi_integer("target", [4, 3, 2], "Targets of trainings that rankings see.")
EPOCHS = flags.DEFINE_integer("epochs", 14, "Epochs with learned bit widths.", 1)
STEPS = flags.DEFINE_integer("steps", 70, "Batches in such an epoch.", 1)
OUTPUT = flags.DEFINE_string("output", "benchmarks/results/bottlenecks.json", "JSON file to write.")
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Measure nothing: the table.")

LAST = "dense"
LOSS = "sparse_categorical_crossentropy"
SMALLEST_PROBABILITY = 2.0**-10
"""Probabilities of the quantized softmax can be 0, where the loss is infinite."""
KINDS = {"weights": ("weights",), "activations": ("activations",)}
KINDS["all"] = KINDS["weights"] + KINDS["activations"]
Scores = dict[str, float]


def quantized(overrides: dict[str, Any] | None = None, width: int = 8) -> Any:
    """ResNet-8 with all tensors at one width, and exceptions, calibrated and not trained."""
    config = keras_qat.STEConfig(
        weight_bits=width,
        activation_bits=width,
        first_and_last_bits=width,
        input_bits=width,
        add_bits=width,
    )
    return keras_qat.quantize(
        resnet8.float_model(),
        config,
        overrides=overrides,
        calibration_data=resnet8.images("train")[0][: resnet8.CALIBRATION_IMAGES],
    )


def quality(model: keras.Model) -> dict[str, float]:
    """Accuracy in %, and cross-entropy, on validation images."""
    images, labels = (part[: IMAGES.value] for part in resnet8.images("validation"))
    outputs = model.predict(images, batch_size=500, verbose=0)
    right = outputs[np.arange(len(labels)), labels.astype(int)]
    return {
        "accuracy": resnet8.accuracy(outputs, labels),
        "loss": float(-np.mean(np.log(np.maximum(right, SMALLEST_PROBABILITY)))),
    }


def with_one_narrow(name: str) -> Any:
    """The network at 8 bits, with one tensor at --bits."""
    layer, kind = name.rsplit("/", 1)
    narrow = {f"{'weight' if kind == 'weights' else 'activation'}_bits": BITS.value}
    model = quantized({layer: keras_qat.STEConfig(**narrow, input_bits=BITS.value)})
    found = {key for key, each in model.named_quantizers.items() if each.bits != 8}
    if found != {name}:
        raise ValueError(f"{name} should have {BITS.value} bits alone. Received: {sorted(found)}")
    return model


def probed() -> tuple[np.ndarray, np.ndarray]:
    """The images and labels that the rankings see."""
    images, labels = resnet8.images("train")
    return images[: PROBED.value], labels[: PROBED.value]


def sensitivities(model: Any) -> dict[str, Scores]:
    """Both kinds of step sensitivity."""
    return {
        "step_sensitivity": keras_qat.step_sensitivity(model, *probed(), LOSS),
        "step_sensitivity, noise with its signs": keras_qat.step_sensitivity(
            model, *probed(), LOSS, independent=False
        ),
    }


def seen_at(width: int) -> dict[str, Scores]:
    """The scores of rankings in the network with all tensors at one width."""
    model = quantized(width=width)
    monitor = CapacityMonitor(probed()[0])
    monitor.set_model(model)
    monitor.on_train_begin()
    monitor.on_epoch_end(0)
    rankings = ("bits_per_value", "bits_per_example")
    return {
        **{by: ranking_scores(monitor.history, by) for by in rankings},
        **sensitivities(model),
    }


def seen_in_training(target: int) -> dict[str, Scores]:
    """The scores of rankings after a short training that brings widths down to a target.

    The input and the outputs keep 8 bits, and are not ranked by their area.
    """
    keras.utils.set_random_seed(0)
    names = ("weight_bits", "activation_bits", "first_and_last_bits", "add_bits")
    config = keras_qat.GDNSQConfig(**dict.fromkeys(names, target))
    model = keras_qat.quantize(
        resnet8.float_model(),
        config,
        overrides={LAST: keras_qat.GDNSQConfig(activation_bits=8, weight_bits=target)},
        calibration_data=resnet8.images("train")[0][: resnet8.CALIBRATION_IMAGES],
    )
    model.compile(keras.optimizers.Adam(1e-3), LOSS, metrics=["accuracy"])
    monitor = CapacityMonitor(probed()[0][:128])
    model.fit(
        resnet8.training_batches(seed=0),
        epochs=EPOCHS.value,
        steps_per_epoch=STEPS.value,
        verbose=2,
        callbacks=[GDNSQSchedule(), monitor],
    )
    targets = {name: each["target_bits"] for name, each in monitor.history["tensors"].items()}
    area = ranking_scores(monitor.history, "area_above_target")
    return {
        "area_above_target": {n: area[n] for n in area if targets[n] == target},
        "bits_per_value": ranking_scores(monitor.history, "bits_per_value"),
        **sensitivities(model),
    }


def correlation(scores: Scores, drops: Scores, kind: str) -> str:
    """Spearman's correlation over tensors that have both, with its p value and their number."""
    ends = KINDS[kind]
    names = [name for name in drops if name in scores and name.endswith(ends)]
    if len(names) < 3 or (kind == "all" and len({name.rsplit("/", 1)[1] for name in names}) < 2):
        return ""
    if len({scores[name] for name in names}) < 2:
        return "all equal"
    found = spearmanr([scores[name] for name in names], [drops[name] for name in names])
    chance = "p < 0.01" if found.pvalue < 0.01 else f"p = {found.pvalue:.2f}"
    return f"{found.statistic:+.2f} ({chance}, {len(names)})"


def report(found: dict[str, Any]) -> str:
    """Two Markdown tables: the correlations of all rankings, and the drops."""
    base = found["base"]
    drops = {name: each["loss"] - base["loss"] for name, each in found["truth"].items()}
    text = "| seen in | ranking | weights | activations | both |\n|---|---|---|---|---|\n"
    for place, rankings in found["rankings"].items():
        for by, scores in rankings.items():
            cells = " | ".join(correlation(scores, drops, kind) for kind in KINDS)
            text += f"| {place} | {by} | {cells} |\n"
    text += "\n| tensor | accuracy, % | loss | drop of accuracy | rise of loss |\n"
    text += "|---|---|---|---|---|\n"
    text += f"| none | {base['accuracy']:.1f} | {base['loss']:.3f} | | |\n"
    for name in sorted(drops, key=lambda name: -drops[name]):
        now = found["truth"][name]
        text += f"| {name} | {now['accuracy']:.1f} | {now['loss']:.3f} "
        text += f"| {base['accuracy'] - now['accuracy']:.1f} | {drops[name]:.3f} |\n"
    return text


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    output = pathlib.Path(OUTPUT.value)
    found = json.loads(output.read_text()) if output.exists() else {}

    def measured(part: dict[str, Any], name: str, measure: Callable[[], Any]) -> None:
        if name not in part and not REPORT_ONLY.value:
            part[name] = measure()
            print(name, "measured", flush=True)
            replace_file(output, (json.dumps(found, indent=1) + "\n").encode())

    measured(found, "base", lambda: quality(quantized()))
    truth, rankings = found.setdefault("truth", {}), found.setdefault("rankings", {})
    for name in quantized().named_quantizers if not REPORT_ONLY.value else ():
        measured(truth, name, lambda name=name: quality(with_one_narrow(name)))
    for width in WIDTHS.value:
        measured(rankings, f"all at {width} bits", lambda width=width: seen_at(width))
    for target in TARGETS.value:
        name = f"training down to {target} bits"
        measured(rankings, name, lambda target=target: seen_in_training(target))
    print(report(found), end="")


if __name__ == "__main__":
    app.run(main)
