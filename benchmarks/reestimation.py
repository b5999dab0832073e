"""Measures what re-estimation brings to the trained models of a study, on the test set.

    python benchmarks/reestimation.py --folder=benchmarks/results/gdnsq --variant=ste

Every .keras file of the study is evaluated as training left it, and again with the statistics of
BatchNormalization re-estimated on 40 batches of augmented training images. Both accuracies of a
model are written at once to --output, a JSON file. Models that are in it are not evaluated again.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections import defaultdict

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import resnet8
import study_report
from absl import app, flags

import keras_qat

FOLDER = flags.DEFINE_string("folder", None, "A study's folder with .keras files.", required=True)
VARIANTS = flags.DEFINE_multi_string("variant", None, "Variants of the study; all by default.")
OUTPUT = flags.DEFINE_string(
    "output", "benchmarks/results/reestimation.json", "JSON file to write."
)
BATCHES = flags.DEFINE_integer("batches", 40, "Batches of training images.", 1)


def accuracies(path: pathlib.Path, seed: int) -> dict[str, float]:
    """Both accuracies of one model, in % of the test images."""
    model = keras_qat.load_model(path, compile=False)
    images, labels = resnet8.images("test")

    def accuracy() -> float:
        return resnet8.accuracy(model.predict(images, batch_size=500, verbose=0), labels)

    before = accuracy()
    batches = resnet8.training_batches(seed).take(BATCHES.value)
    keras_qat.reestimate_batch_normalization(model, batches)
    return {"running": before, "reestimated": accuracy()}


def report(found: dict[str, dict]) -> str:
    """A Markdown table with one row for each bit width and variant."""
    cells = defaultdict(list)
    for run in found.values():
        cells[-run["bits"], run["variant"]].append(run)
    text = "| bits | variant | seeds | running averages | re-estimated | gain |\n"
    text += "|---|---|---|---|---|---|\n"
    for (bits, variant), runs in sorted(cells.items()):
        text += f"| W{-bits}A{-bits} | {variant} | {len(runs)} |"
        gains = [run["reestimated"] - run["running"] for run in runs]
        for values in ([run[kind] for run in runs] for kind in ("running", "reestimated")):
            text += " {:.2f} ± {:.2f} |".format(*study_report.mean_and_spread(values))
        text += " {:+.2f} ± {:.2f} |\n".format(*study_report.mean_and_spread(gains))
    return text


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    output = pathlib.Path(OUTPUT.value)
    found = json.loads(output.read_text()) if output.exists() else {}
    for path in sorted(pathlib.Path(FOLDER.value).glob("*_seed*.keras")):
        result = path.with_suffix(".json")
        if path.stem in found or not result.exists():
            continue
        run = json.loads(result.read_text())
        if VARIANTS.value and run["variant"] not in VARIANTS.value:
            continue
        known = {name: run[name] for name in ("variant", "bits", "seed")}
        found[path.stem] = {**known, **accuracies(path, run["seed"])}
        partial = output.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1) + "\n")
        partial.rename(output)
        print(path.stem, found[path.stem], flush=True)
    print(report(found), end="")


if __name__ == "__main__":
    app.run(main)
