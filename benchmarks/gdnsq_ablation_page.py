"""Writes benchmarks/results/gdnsq_ablation.md and its pictures from the results of the queue.

python benchmarks/gdnsq_ablation_page.py
"""

from __future__ import annotations

import csv
import json
import pathlib
import statistics
from typing import Any

from absl import app, flags
from study_report import described, load_runs, paired_difference

import keras_qat

_HERE = pathlib.Path(__file__).resolve().parent

FOLDER = flags.DEFINE_string("folder", str(_HERE / "results" / "gdnsq_ablation"), "The results.")
LIST = flags.DEFINE_string("list", str(_HERE / "queue.txt"), "The runs, in their order.")

STUDY, BASELINE = "gdnsq_ablation", "gdnsq"

CHANGES = {
    "gdnsq": "the default",
    "no_help": "late widths are not narrowed, steps are not set anew",
    "no_assist": "late widths are not narrowed by hand",
    "no_refit": "steps are not set anew when a width arrives",
    "penalty_stays": "after arrival levels stay free, and the penalty goes on",
    "keeps_fewer": "a channel that arrives with fewer levels keeps them",
    "published": "the published recipe and RAdam at 0.002, six times the epochs",
    "published_free": "the same on the published grids, which do not deploy",
    "no_annealing": "the learning rate does not fall",
    "no_gradual": "widths start at their targets, ranges from minimum and maximum",
    "no_gradual_calibrated": "the same, ranges of the least squared error",
    "distilled": "the float model instead of the labels",
    "distilled_half": "the float model, and the labels at half their weight",
    "distilled_and_labels": "the float model and the labels",
    "no_noise": "no random term in the gradient of steps",
    "lsq_noise": "the noise itself in the gradient of steps",
    "squared_penalty": "the square of the excess in the penalty",
    "ewgs": "EWGS instead of straight through",
    "aewgs": "AEWGS instead of straight through",
}

_HEAD = """# GDNSQ, one change at a time

ResNet-8 on CIFAR-10, accuracy in % of the 10,000 test images, mean and standard deviation over
seeds. Start: MLPerf Tiny's trained float model, 87.21 %. A run has half the epochs of
[the study of learned widths](gdnsq.md): 4, and 2 at W4A4. It uses Adam at 1e-3 and batch 128, and
statistics of BatchNormalization are re-estimated before every validation. The published recipe
needs more batches to move 8 bits, and has six times the epochs.

"Minus gdnsq" is the mean difference from the default over common seeds, with the half of its 95 %
interval (Student's t). A bold difference is one whose interval does not hold 0. With three seeds
and more than a dozen rows, one of them is bold by chance about every second time. "Narrowed" is
how many widths were narrowed by hand, "refit" the largest change of a step at an arrival, in
octaves, both over the whole run.

"""

_TAIL = """
![Learned bit widths over the batches](gdnsq_ablation/widths_w{bits}a{bits}.png)

The learned widths of the default run with seed {seed} at W{bits}A{bits}. The ends have 8 bits.

```sh
python benchmarks/run_queue.py --minutes=90  # goes on where it was
python benchmarks/gdnsq_ablation_page.py
```
"""


def listed(path: pathlib.Path) -> list[tuple[str, int, int]]:
    """Variant, bits and seed of the runs of this study in the list."""
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return [(line[1], int(line[2]), int(line[3])) for line in lines if line[:1] == [STUDY]]


def _by_hand(folder: pathlib.Path, runs: list[dict[str, Any]]) -> list[str]:
    """The widths narrowed and the largest refit of a run, means over seeds."""
    narrowed, refits = [], []
    for run in runs:
        path = folder / f"w{run['bits']}a{run['bits']}_{run['variant']}_seed{run['seed']}.csv"
        with path.open(newline="") as file:
            epochs = list(csv.DictReader(file))
        narrowed.append(sum(float(epoch["assisted_widths"]) for epoch in epochs))
        refits.append(max(float(epoch["refit_octaves"]) for epoch in epochs))
    return [f"{statistics.mean(narrowed):.0f}", f"{statistics.mean(refits):.2f}"]


def row(
    folder: pathlib.Path,
    bits: int,
    variant: str,
    runs: list[dict[str, Any]],
    others: list[dict[str, Any]],
    of: int,
) -> str:
    """One line of the table; `of` is how many runs the list has."""
    head = f"| W{bits}A{bits} | {variant} | {CHANGES[variant]} | {len(runs)} of {of} |"
    if not runs:
        begun = any(folder.glob(f"w{bits}a{bits}_{variant}_seed*.csv"))
        return f"{head} {'running' if begun else 'waits'} | | | | | |"
    found = paired_difference(runs, others) if variant != BASELINE else None
    difference = ""
    if found is not None:
        difference = f"{found[0]:+.2f} ± {found[1]:.2f}"
        difference = f"**{difference}**" if abs(found[0]) > found[1] else difference
    met = [run["logs"].get("targets_met_at") for run in runs]
    share = [100 * done / run["batches"] for done, run in zip(met, runs, strict=True) if done]
    arrived = f"{statistics.mean(share):.0f} %" if len(share) == len(runs) else "not in every run"
    cells = [described([run["qat_accuracy"] for run in runs]), difference]
    cells += [f"{statistics.mean(run['logs']['task_loss'] for run in runs):.4f}", arrived]
    return f"{head} {' | '.join([*cells, *_by_hand(folder, runs)])} |"


def main(argv: list[str]) -> None:
    folder, known = pathlib.Path(FOLDER.value), listed(pathlib.Path(LIST.value))
    cells = load_runs(folder)
    columns = ["bits", "variant", "what differs", "seeds", "accuracy", "minus gdnsq, paired"]
    columns += ["training loss", "targets met after", "narrowed", "refit"]
    text = _HEAD + f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    for bits in sorted({bits for _, bits, _ in known}, reverse=True):
        for variant in CHANGES:
            of = sum((name, width) == (variant, bits) for name, width, _ in known)
            if of:
                runs, others = (cells.get((bits, name), []) for name in (variant, BASELINE))
                text += row(folder, bits, variant, runs, others, of) + "\n"
    for bits, seed in ((2, 0), (1, 0), (4, 0)):
        widths = folder / f"w{bits}a{bits}_{BASELINE}_seed{seed}.widths.json"
        if widths.exists():
            keras_qat.plot_bit_widths(widths, folder / f"widths_w{bits}a{bits}.png")
            text += _TAIL.format(bits=bits, seed=seed)
            break
    folder.with_suffix(".md").write_text(text)
    print(json.dumps({"written": str(folder.with_suffix(".md"))}))


if __name__ == "__main__":
    app.run(main)
