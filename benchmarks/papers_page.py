"""Writes benchmarks/results/papers.md: the papers' networks and data, and how far each one is.

python benchmarks/papers_page.py
"""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib

from absl import app
from run_queue import LIST, RESULTS_DIR, entries


@dataclasses.dataclass(frozen=True)
class Row:
    """A network on a data set, and the study that trains it.

    Attributes:
        network: its name.
        data: name of the data set.
        study: name of the script, which is also the folder of its results.
        start: the float model.
        epochs: the recipe: bits -> epochs.
        page: the page with its results, if it has its own.
        published: bits -> the accuracy that GDNSQ's code states for GDNSQ, in %.
    """

    network: str
    data: str
    study: str
    start: str
    epochs: dict[int, int]
    page: str = ""
    published: dict[int, float] = dataclasses.field(default_factory=dict)


ROWS = (
    Row("ResNet-8", "CIFAR-10", "estimators", "MLPerf Tiny's, 87.21 %",
        {4: 5, 2: 8, 1: 8}, "estimators.md"),
    Row("ResNet-8", "CIFAR-10", "gdnsq", "MLPerf Tiny's, 87.21 %",
        {4: 5, 3: 8, 2: 8, 1: 8}, "gdnsq.md"),
    Row("ResNet-20", "CIFAR-10", "resnet20", "GDNSQ's authors', 92.81 %",
        {4: 20, 3: 30, 2: 100, 1: 240}, "resnet20.md", {4: 92.78, 3: 92.5, 2: 91.4, 1: 86.5}),
    Row("VGG-small", "CIFAR-10", "vgg_small", "trained here, 30 epochs",
        {4: 8, 3: 10, 2: 15, 1: 30}),
    Row("VGG16-BN", "CIFAR-10", "vgg16_bn", "trained here, 120 epochs",
        {4: 20, 3: 30, 2: 60, 1: 120}),
    Row("ResNet-20", "CIFAR-100", "resnet20_cifar100", "trained here, 200 epochs",
        {4: 20, 3: 30, 2: 100, 1: 240}, "", {4: 70.24, 3: 69.36, 2: 66.41, 1: 58.38}),
    Row("ResNet-18", "ImageNet", "resnet18_imagenet", "trained here, 90 epochs",
        {4: 10, 3: 20, 2: 30, 1: 40}, "", {4: 69.5, 2: 68.9, 1: 58.6}),
)  # fmt: skip

_HEAD = """# The tasks of the papers

GDNSQ's code reports ResNet-20 on CIFAR-10 and CIFAR-100, and ResNet-18 on ImageNet. The abstract of
PEGE names ResNet and VGG, CIFAR-10 and ImageNet. ResNet-8 is the network of MLPerf Tiny. The table
says how far each one is here.

| network | data | study | float model | epochs at 4, 3, 2, 1 bits | published for GDNSQ | state |
|---|---|---|---|---|---|---|
"""

_TAIL = """
"Published" is the accuracy in % that GDNSQ's code states at 4, 3, 2 and 1 bits: the best epoch on
the test set, with layers in float ([ResNet-20](resnet20.md) says which). PEGE has no number here,
because we have read its abstract alone.

"Not run" means that no run has begun. Tests take such a study from its float model to a proven file
on a few made-up images, which says nothing of its accuracy. Every study trains its own float model
first, unless it has one. Methods are `ste`, `ewgs`, `lsq`, `pege` and `gdnsq`. Recipes were written
down before the first run. The last epoch counts, statistics of BatchNormalization are re-estimated,
and the test set is read once.

```sh
python benchmarks/run_queue.py --minutes=90  # the runs of benchmarks/queue.txt
python benchmarks/vgg16_bn.py --only=float,32,0
python benchmarks/vgg16_bn.py --only=pege,2,0
python benchmarks/papers_page.py
```
"""


def state(row: Row, folder: pathlib.Path, names: list[str]) -> str:
    """How far the runs of a study are."""
    if row.page:
        return f"[results]({row.page})"
    if not names and not any(folder.glob("w*.json")):
        return "not run"
    done = sum((folder / f"{name}.json").exists() for name in names)
    begun = any((folder / f"{name}.csv").exists() for name in names)
    return f"{done} of {len(names)} runs" if begun or done else f"waits: {len(names)} runs"


def overview(row: Row, folder: pathlib.Path, names: list[str]) -> str:
    """One line of the table."""
    shown = [
        " / ".join(f"{values[bits]:g}" if bits in values else "-" for bits in (4, 3, 2, 1))
        for values in (row.epochs, row.published)
    ]
    published = shown[1] if row.published else ""
    cells = [row.network, row.data, f"`{row.study}.py`", row.start, shown[0], published]
    return f"| {' | '.join([*cells, state(row, folder, names)])} |\n"


def run_line(folder: pathlib.Path, name: str) -> str:
    """What is known of one run: accuracies of a finished one, or its epoch."""
    result = folder / f"{name}.json"
    if not result.exists():
        history = folder / f"{name}.csv"
        if not history.exists():
            return f"| {name} | waits | | | |\n"
        with history.open(newline="") as file:
            return f"| {name} | running: epoch {len(list(csv.DictReader(file)))} | | | |\n"
    found = json.loads(result.read_text())
    if "test_accuracy" in found:
        return f"| {name} | {found['test_accuracy']:.2f} | | | |\n"
    return (
        f"| {name} | {found['qat_accuracy']:.2f} | {found['tflite_accuracy']:.2f} "
        f"| {found['file_bytes']:,} | {found['mismatches']} of {found['compared_elements']:,} |\n"
    )


def page(results: pathlib.Path, runs: list[tuple[str, str]]) -> str:
    """The whole page."""
    text, details = _HEAD, ""
    for row in ROWS:
        folder = results / row.study
        names = [name for study, name in runs if study == row.study]
        text += overview(row, folder, names)
        if names and not row.page:
            details += (
                f"\n## {row.network} on {row.data}\n\n"
                "| run | Keras model | .tflite in LiteRT | bytes | mismatches |\n"
                "|---|---|---|---|---|\n"
            ) + "".join(run_line(folder, name) for name in names)
    return text + _TAIL + details


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    results = pathlib.Path(RESULTS_DIR.value)
    runs = [(entry.folder_name, entry.name) for entry in entries(pathlib.Path(LIST.value))]
    (results / "papers.md").write_text(page(results, runs))


if __name__ == "__main__":
    app.run(main)
