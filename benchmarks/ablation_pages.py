"""Writes the pages that take GDNSQ and PEGE apart, from the results of the queue.

    python benchmarks/ablation_pages.py

They are benchmarks/results/gdnsq_ablation.md, with a picture of the learned bit widths, and
benchmarks/results/pege.md.
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import statistics
from typing import Any

import ablation_texts
from absl import app
from run_queue import LIST, RESULTS_DIR, entries
from study_report import described, load_runs, paired_difference

import keras_qat

Runs = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Page:
    """A page about one study.

    Attributes:
        name: the name of the page.
        study: the study, which is also the folder of its runs.
        baseline: the variant with which the others are compared.
        changes: variant -> what differs from the baseline.
        text: the page, with `{table}`.
        learns_widths: whether the table has what was done to widths.
    """

    name: str
    study: str
    baseline: str
    changes: dict[str, str]
    text: str
    learns_widths: bool = False

    @property
    def columns(self) -> list[str]:
        """The heads of the columns."""
        found = ["bits", "variant", "what differs", "seeds", "accuracy"]
        found += [f"minus {self.baseline}, paired", "training loss"]
        return found + (["targets met after", "narrowed", "refit"] if self.learns_widths else [])


PAGES = (
    Page(
        "gdnsq_ablation",
        "gdnsq_ablation",
        "gdnsq",
        ablation_texts.GDNSQ_CHANGES,
        ablation_texts.GDNSQ,
        learns_widths=True,
    ),
    Page("pege", "estimators", "pege", ablation_texts.PEGE_CHANGES, ablation_texts.PEGE),
)


def row(page: Page, folder: pathlib.Path, bits: int, variant: str, runs: Runs, others: Runs) -> str:
    """One line of the table. Without runs it says whether one has begun."""
    head = [f"W{bits}A{bits}", variant, page.changes[variant], str(len(runs))]
    if not runs:
        begun = any(folder.glob(f"w{bits}a{bits}_{variant}_seed*.csv"))
        head.append("running" if begun else "waits")
        return _line(head + [""] * (len(page.columns) - len(head)))
    cells = [described([run["qat_accuracy"] for run in runs]), ""]
    found = paired_difference(runs, others) if variant != page.baseline else None
    if found is not None:
        difference = f"{found[0]:+.2f} ± {found[1]:.2f}"
        cells[1] = f"**{difference}**" if abs(found[0]) > found[1] else difference
    losses = [run["logs"].get("task_loss", run["logs"]["loss"]) for run in runs]
    cells.append(f"{statistics.mean(losses):.4f}")
    return _line(head + cells + (_widths(folder, runs) if page.learns_widths else []))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _widths(folder: pathlib.Path, runs: Runs) -> list[str]:
    """When targets were met, the widths narrowed and the largest refit; means over seeds."""
    met = [run["logs"].get("targets_met_at") for run in runs]
    share = [100 * done / run["batches"] for done, run in zip(met, runs, strict=True) if done]
    narrowed, refits = [], []
    for run in runs:
        name = f"w{run['bits']}a{run['bits']}_{run['variant']}_seed{run['seed']}.csv"
        with (folder / name).open(newline="") as file:
            epochs = list(csv.DictReader(file))
        narrowed.append(sum(float(epoch["assisted_widths"]) for epoch in epochs))
        refits.append(max(float(epoch["refit_octaves"]) for epoch in epochs))
    arrived = f"{statistics.mean(share):.0f} %" if len(share) == len(runs) else "not in every run"
    return [arrived, f"{statistics.mean(narrowed):.0f}", f"{statistics.mean(refits):.2f}"]


def table(page: Page, folder: pathlib.Path, known: list[tuple[str, int]]) -> str:
    """A row for each variant that has run or waits, many bits first."""
    cells = load_runs(folder)
    text = _line(page.columns) + f"|{'---|' * len(page.columns)}\n"
    for bits in (4, 3, 2, 1):
        for variant in page.changes:
            runs = cells.get((bits, variant), [])
            if runs or (variant, bits) in known:
                others = cells.get((bits, page.baseline), [])
                text += row(page, folder, bits, variant, runs, others)
    return text


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    results = pathlib.Path(RESULTS_DIR.value)
    listed = entries(pathlib.Path(LIST.value))
    for page in PAGES:
        folder = results / page.study
        known = [(each.variant, each.bits) for each in listed if each.study == page.study]
        text = page.text.format(
            table=table(page, folder, known),
            pictures=pictures(folder) if page.learns_widths else "",
        )
        path = results / f"{page.name}.md"
        path.write_text(text, encoding="utf-8")
        print(path)


def pictures(folder: pathlib.Path) -> str:
    """Draws the learned widths of the default runs with seed 0, and returns Markdown for them."""
    text = ""
    for bits in (4, 2, 1):
        widths, picture = folder / f"w{bits}a{bits}_gdnsq_seed0.widths.json", f"w{bits}a{bits}.png"
        if widths.exists():
            keras_qat.plot_bit_widths(widths, folder / picture)
            text += ablation_texts.WIDTHS.format(picture=picture, bits=bits)
    return text


if __name__ == "__main__":
    app.run(main)
