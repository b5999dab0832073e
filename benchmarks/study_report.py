"""Writes a study's finished runs as one Markdown table and one picture."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections import defaultdict

import matplotlib.figure
from scipy import stats

Cell = tuple[int, str]
"""Bits and variant."""

COLUMNS = (
    "bits",
    "variant",
    "seeds",
    "accuracy",
    "minus float",
    "minus {baseline}, paired",
    ".tflite",
    ".tflite minus model, at most",
    "same answers, at least",
    "targets met after",
)


def load_runs(folder: pathlib.Path, tested: bool = True) -> dict[Cell, list[dict]]:
    """The finished runs of a folder by bits and variant: all, or only runs with a test accuracy."""
    cells = defaultdict(list)
    for path in sorted(folder.glob("w*_seed*.json")):
        run = json.loads(path.read_text())
        is_run = "bits" in run  # an export's report has none
        if is_run and ("qat_accuracy" in run or not tested):
            cells[run["bits"], run["variant"]].append(run)
    return dict(cells)


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds. The deviation of a single value is 0."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def paired_difference(runs: list[dict], others: list[dict]) -> tuple[float, float] | None:
    """The mean difference of accuracy over common seeds, and the half of its 95 % interval.

    The interval follows Student's t over the differences of each seed. With three seeds it is
    4.3 standard errors on each side. `None` with fewer than two common seeds.
    """
    known = {run["seed"]: run["qat_accuracy"] for run in others}
    differences = [run["qat_accuracy"] - known[run["seed"]] for run in runs if run["seed"] in known]
    if len(differences) < 2:
        return None
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences), error * float(stats.t.ppf(0.975, len(differences) - 1))


def table(
    cells: dict[Cell, list[dict]], variants: list[str], float_accuracy: float, baseline: str
) -> str:
    """A row for each bit width and variant, in the given order, without empty columns.

    A difference from the baseline is bold if its 95 % interval does not hold 0.
    """
    rows = [
        _row(
            bits,
            variant,
            cells[bits, variant],
            float_accuracy,
            cells.get((bits, baseline), []) if variant != baseline else [],
        )
        for bits in sorted({bits for bits, _ in cells}, reverse=True)
        for variant in variants
        if (bits, variant) in cells
    ]
    filled = [place for place in range(len(COLUMNS)) if any(row[place] for row in rows)]
    columns = [column.format(baseline=baseline) for column in COLUMNS]
    head, *lines = [
        f"| {' | '.join(cells[place] for place in filled)} |\n" for cells in (columns, *rows)
    ]
    return "".join([head, f"|{'---|' * len(filled)}\n", *lines])


def validation_table(cells: dict[Cell, list[dict]]) -> str:
    """Validation accuracies: one row for each bit width and variant, the best first."""
    rows = []
    for (bits, variant), runs in cells.items():
        found = [100.0 * run["logs"]["val_accuracy"] for run in runs]
        row = f"| W{bits}A{bits} | {variant} | {len(runs)} | {described(found)} |\n"
        rows.append((-bits, -statistics.mean(found), row))
    head = "| bits | variant | seeds | validation accuracy |\n|---|---|---|---|\n"
    return head + "".join(row for *_, row in sorted(rows))


def described(values: list[float]) -> str:
    """Mean and spread as text. One value has no spread."""
    mean, spread = mean_and_spread(values)
    return f"{mean:.2f} ± {spread:.2f}" if len(values) > 1 else f"{mean:.2f}"


def _paired(runs: list[dict], others: list[dict]) -> str:
    found = paired_difference(runs, others)
    if found is None:
        return ""
    mean, half = found
    text = f"{mean:+.2f} ± {half:.2f}"
    return f"**{text}**" if abs(mean) > half else text


def _row(
    bits: int, variant: str, runs: list[dict], float_accuracy: float, others: list[dict]
) -> list[str]:
    found = [run["qat_accuracy"] for run in runs]
    cells = [f"W{bits}A{bits}", variant, str(len(runs)), described(found)]
    cells.append(f"{statistics.mean(found) - float_accuracy:+.2f}")
    cells.append(_paired(runs, others))
    if all("tflite_accuracy" in run for run in runs):
        of_file = described([run["tflite_accuracy"] for run in runs])
        gap = max(abs(run["tflite_accuracy"] - run["qat_accuracy"]) for run in runs)
        agreement = min(run["argmax_agreement"] for run in runs)
        cells += [of_file, f"{gap:.2f}", f"{agreement:.2f} %"]
    else:
        cells += ["", "", ""]
    met = [run["logs"].get("targets_met_at") for run in runs]
    share = [done / run["batches"] for done, run in zip(met, runs, strict=True) if done]
    cells.append(f"{100 * statistics.mean(share):.0f} % of the run" if share else "")
    return cells


def plot(
    cells: dict[Cell, list[dict]],
    variants: list[str],
    float_accuracy: float,
    path: pathlib.Path,
) -> None:
    """Draws a panel with its own axis for each bit width: a dot per seed, a bar at the mean."""
    widths = sorted({bits for bits, _ in cells}, reverse=True)
    known = [variant for variant in variants if any((bits, variant) in cells for bits in widths)]
    figure = matplotlib.figure.Figure(
        figsize=(2.0 + 3.0 * len(widths), 1.2 + 0.3 * len(known)), layout="constrained"
    )
    panels = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
    for axes, bits in zip(panels, widths, strict=True):
        axes.axvline(float_accuracy, color="gray", linestyle="--", linewidth=1)
        for place, variant in enumerate(known):
            values = [run["qat_accuracy"] for run in cells.get((bits, variant), [])]
            if values:
                mean = statistics.mean(values)
                axes.plot([mean, mean], [place - 0.3, place + 0.3], color="C0", linewidth=2.5)
                axes.plot(values, [place] * len(values), "o", color="C1", markersize=5)
        runs = [run for (width, _), some in cells.items() if width == bits for run in some]
        found = [run["qat_accuracy"] for run in runs]
        spread = max(found) - min(found) + 1.0
        if min(found) - spread < float_accuracy < max(found) + spread:
            found.append(float_accuracy)
        axes.set_xlim(min(found) - 0.08 * spread, max(found) + 0.08 * spread)
        axes.set_title(f"W{bits}A{bits}")
        axes.set_xlabel("accuracy on the test set, %")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(known)), known)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=130)
