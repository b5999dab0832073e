"""Writes benchmarks/results/resnet20.md and its picture from the results of the queue.

python benchmarks/resnet20_page.py
"""

from __future__ import annotations

import csv
import json
import pathlib
from typing import Any

import matplotlib.figure
from absl import app, flags

_HERE = pathlib.Path(__file__).resolve().parent

FOLDER = flags.DEFINE_string("folder", str(_HERE / "results" / "resnet20"), "The results.")
LIST = flags.DEFINE_string("list", str(_HERE / "queue.txt"), "The runs, in their order.")

FLOAT_ACCURACY = 92.81
PUBLISHED = {4: 92.78, 3: 92.5, 2: 91.4, 1: 86.5}
EPOCHS = {4: 20, 3: 30, 2: 100, 1: 240}

_COLUMNS = (
    *("bits", "method", "seed", "epochs", "ours, Keras model", "ours, .tflite in LiteRT", "bytes"),
    *("mismatches", "published"),
)

_HEAD = """# The papers' table: ResNet-20 on CIFAR-10

Accuracy in % of the 10,000 test images. Start: the float model of GDNSQ's authors, 92.81 %.

"Published" is the accuracy that GDNSQ's code states for GDNSQ at these bits. It is the best epoch
of up to 1,000, chosen on the test set. The model is distilled from the float model, and its first
convolution, its last layer and its additions are in float. "Ours" is the last epoch, with nothing
chosen. The whole network is one integer file, and inputs, outputs, additions, the first and the
last weights have 8 bits. It trains on labels alone, unless the method says otherwise. A row has
one seed.

"""

_TAIL = """
![Training accuracy by epoch](resnet20.png)

The curves show the training accuracy on augmented images. A dot is the accuracy of a finished
run on the test set, at its last epoch. The dashed line is the float model on the test set.

The recipe was written down before the first run (`benchmarks/resnet20.py`). Every run uses RAdam
at 0.0007 with batches of 128, and all 50,000 training images with reflected borders of 4, crops
of 32x32 and flips. GDNSQ has its planned schedule. The rate of other methods falls along half a
cosine. The float model has seen all training images, so no part of them can choose anything. At
the end the statistics of BatchNormalization are re-estimated from 40 augmented batches, and the
test set is read once.

Every finished row has a JSON file in `benchmarks/results/resnet20`, with recipe, commit, versions,
accuracies and the SHA-256 of the file, and a CSV file of its epochs. Backups are kept outside of
the repository. A run whose backups are lost begins again. `starts` in its JSON says how often a
run was begun or resumed.

```sh
python benchmarks/run_queue.py --minutes=90  # goes on where it was
python benchmarks/run_queue.py --status
python benchmarks/resnet20_page.py
```
"""


_GENERALIZATION = """
## Why the rows are below the published ones

Accuracy in inference, on one epoch of augmented training images and on the test images
(`python benchmarks/resnet20_generalization.py`; one seed):

| model | augmented training images | test images |
|---|---|---|
{rows}

At 3 bits the network fits the training images as well as the float model does, so it has bits
enough. What it loses, it loses on images that it has not seen. The likely cause is the recipe: it
trains on labels alone, without weight decay, on images that the float model has learned already.
The published runs learn from the outputs of the float model, and their epoch is chosen on the test
set. How much of the distance distillation closes here is not measured yet.
"""


def listed(path: pathlib.Path) -> list[tuple[str, int, int]]:
    """Variant, bits and seed of this study's runs in the list."""
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return [(line[1], int(line[2]), int(line[3])) for line in lines if line[:1] == ["resnet20"]]


def row(folder: pathlib.Path, variant: str, bits: int, seed: int) -> str:
    """One line of the table."""
    name = f"w{bits}a{bits}_{variant}_seed{seed}"
    published = f"{PUBLISHED[bits]:g}" if variant.startswith("gdnsq") else ""
    head = f"| W{bits}A{bits} | {variant.replace('_', ', ')} | {seed} |"
    if (result := _result(folder / f"{name}.json")) is not None:
        files = (
            f"{result['tflite_accuracy']:.2f} | {result['file_bytes']:,} | {result['mismatches']} "
            f"of {result['compared_elements']:,}"
        )
        return f"{head} {result['epochs']} | {result['qat_accuracy']:.2f} | {files} | {published} |"
    epochs = len(history(folder / f"{name}.csv"))
    said = f"running: epoch {epochs} of {EPOCHS[bits]}" if epochs else "waits"
    return f"{head} {EPOCHS[bits]} | {said} | | | | {published} |"


def _result(path: pathlib.Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def history(path: pathlib.Path) -> list[dict[str, str]]:
    """The epochs of a run so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def generalization(path: pathlib.Path) -> str:
    """The section with the accuracies on training and test images."""
    rows = (
        f"| {name} | {found['training']:.2f} | {found['test']:.2f} |"
        for name, found in json.loads(path.read_text()).items()
    )
    return _GENERALIZATION.format(rows="\n".join(rows))


def plot(folder: pathlib.Path, runs: list[tuple[str, int, int]], path: pathlib.Path) -> None:
    """A curve of training accuracy for every run that has begun."""
    figure = matplotlib.figure.Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for variant, bits, seed in runs:
        name = f"w{bits}a{bits}_{variant}_seed{seed}"
        rows = history(folder / f"{name}.csv")
        if not rows:
            continue
        epochs = range(1, len(rows) + 1)
        accuracies = [100 * float(each["accuracy"]) for each in rows]
        label = f"W{bits}A{bits} {variant.replace('_', ', ')}, seed {seed}"
        (line,) = axes.plot(epochs, accuracies, marker="." if len(rows) < 40 else "", label=label)
        if (result := _result(folder / f"{name}.json")) is not None:
            axes.plot(len(rows), result["qat_accuracy"], "o", color=line.get_color())
    axes.axhline(FLOAT_ACCURACY, color="gray", linestyle="--", linewidth=1)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    if axes.lines[1:]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=130)


def main(argv: list[str]) -> None:
    folder, runs = pathlib.Path(FOLDER.value), listed(pathlib.Path(LIST.value))
    table = "\n".join(row(folder, *run) for run in runs)
    head = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}\n"
    why = generalization(folder.with_name(f"{folder.name}_generalization.json"))
    folder.with_suffix(".md").write_text(f"{_HEAD}{head}{table}\n{_TAIL}{why}")
    plot(folder, runs, folder.with_suffix(".png"))


if __name__ == "__main__":
    app.run(main)
