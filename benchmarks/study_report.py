"""A study's finished runs as one Markdown table and one picture."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections import defaultdict

import matplotlib.figure

Cell = tuple[int, str]
"""Bits and variant."""

HEADER = (
    "| bits | variant | seeds | accuracy | .tflite | .tflite minus model, at most | "
    "same answers, at least | targets met after |\n|---|---|---|---|---|---|---|---|\n"
)


def load_runs(folder: pathlib.Path, tested: bool = True) -> dict[Cell, list[dict]]:
    """The finished runs of a folder by bits and variant: those with a test accuracy, or all."""
    cells = defaultdict(list)
    for path in sorted(folder.glob("w*_seed*.json")):
        run = json.loads(path.read_text())
        is_run = "bits" in run  # and no report of an export
        if is_run and ("qat_accuracy" in run or not tested):
            cells[run["bits"], run["variant"]].append(run)
    return dict(cells)


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; the latter is 0 of a single one."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def table(cells: dict[Cell, list[dict]], variants: list[str]) -> str:
    """One row for each width and variant, in the order given."""
    rows = [
        _row(bits, variant, cells[bits, variant])
        for bits in sorted({bits for bits, _ in cells}, reverse=True)
        for variant in variants
        if (bits, variant) in cells
    ]
    return HEADER + "".join(rows)


def validation_table(cells: dict[Cell, list[dict]]) -> str:
    """One row for each width and variant, the best first: accuracy on the validation split."""
    rows = []
    for (bits, variant), runs in cells.items():
        found = [100.0 * run["logs"]["val_accuracy"] for run in runs]
        row = f"| W{bits}A{bits} | {variant} | {len(runs)} | {_described(found)} |\n"
        rows.append((-bits, -statistics.mean(found), row))
    head = "| bits | variant | seeds | validation accuracy |\n|---|---|---|---|\n"
    return head + "".join(row for *_, row in sorted(rows))


def _described(values: list[float]) -> str:
    """Mean and spread; one value has no spread."""
    mean, spread = mean_and_spread(values)
    return f"{mean:.2f} ± {spread:.2f}" if len(values) > 1 else f"{mean:.2f}"


def _row(bits: int, variant: str, runs: list[dict]) -> str:
    accuracy = _described([run["qat_accuracy"] for run in runs])
    cells = [f"W{bits}A{bits}", variant, str(len(runs)), accuracy]
    if all("tflite_accuracy" in run for run in runs):
        of_file = _described([run["tflite_accuracy"] for run in runs])
        gap = max(abs(run["tflite_accuracy"] - run["qat_accuracy"]) for run in runs)
        agreement = min(run["argmax_agreement"] for run in runs)
        cells += [of_file, f"{gap:.2f}", f"{agreement:.2f} %"]
    else:
        cells += ["", "", ""]
    met = [run["logs"].get("targets_met_at") for run in runs]
    share = [done / run["batches"] for done, run in zip(met, runs, strict=True) if done]
    cells.append(f"{100 * statistics.mean(share):.0f} % of the run" if share else "")
    return f"| {' | '.join(cells)} |\n"


def plot(
    cells: dict[Cell, list[dict]],
    variants: list[str],
    float_accuracy: float,
    path: pathlib.Path,
) -> None:
    """Accuracy over bits: a line for each variant, a dot for each seed."""
    figure = matplotlib.figure.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    widths = sorted({bits for bits, _ in cells})
    for index, variant in enumerate(variants):
        known = [bits for bits in widths if (bits, variant) in cells]
        if not known:
            continue
        shift = 0.03 * (index - (len(variants) - 1) / 2)
        accuracies = [[run["qat_accuracy"] for run in cells[bits, variant]] for bits in known]
        means = [statistics.mean(values) for values in accuracies]
        (line,) = axes.plot([b + shift for b in known], means, label=variant, linewidth=1.5)
        for bits, values in zip(known, accuracies, strict=True):
            axes.plot([bits + shift] * len(values), values, "o", color=line.get_color(), ms=4)
    axes.axhline(float_accuracy, color="gray", linestyle="--", linewidth=1)
    axes.annotate("float", (widths[0], float_accuracy), va="bottom", ha="center", color="gray")
    axes.set_xticks(widths, [f"W{bits}A{bits}" for bits in widths])
    axes.set_ylabel("accuracy on the test set, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
