"""Writes the runs of examples/cifar10_resnet8.py as one Markdown table.

python benchmarks/summarize.py benchmarks/results/cifar10_resnet8
"""

import json
import pathlib
import statistics

from absl import app

KINDS = ("float", "qat", "integer", "tflite")
HEADER = (
    "| bits | seed | float | QAT | integer | .tflite | argmax agreement | file bytes |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def row(run: dict) -> str:
    """One run as a table row."""
    cells = [f"W{run['bits']}A{run['bits']}", str(run["seed"])]
    cells += [f"{run[f'{kind}_accuracy']:.2f}" for kind in KINDS]
    cells += [f"{run['argmax_agreement']:.2f} %", f"{run['file_bytes']:,}"]
    return f"| {' | '.join(cells)} |\n"


def summary_row(runs: list[dict]) -> str:
    """Mean and standard deviation over seeds."""
    bits = runs[0]["bits"]
    cells = [f"**W{bits}A{bits}**", f"{len(runs)} seeds"]
    for kind in KINDS:
        values = [run[f"{kind}_accuracy"] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells.append(f"**{statistics.mean(values):.2f}** ± {spread:.2f}")
    agreement = min(run["argmax_agreement"] for run in runs)
    cells += [f"at least {agreement:.2f} %", f"{max(run['file_bytes'] for run in runs):,}"]
    return f"| {' | '.join(cells)} |\n"


def table(folder: pathlib.Path) -> str:
    """All runs of a folder, the most bits first. The mean follows the runs of each bit width."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("w*_seed*.json"))]
    text = HEADER
    for bits in sorted({run["bits"] for run in runs}, reverse=True):
        same = [run for run in runs if run["bits"] == bits]
        text += "".join(map(row, same)) + summary_row(same)
    return text


def main(argv: list[str]) -> None:
    if len(argv) != 2 or not pathlib.Path(argv[1]).is_dir():
        raise app.UsageError("Give the folder with the runs' JSON files.")
    print(table(pathlib.Path(argv[1])), end="")


if __name__ == "__main__":
    app.run(main)
