"""Writes the runs of examples/cifar10_resnet8.py as one Markdown table.

python benchmarks/summarize.py benchmarks/results/cifar10_resnet8
"""

import json
import pathlib
import statistics

from absl import app

KINDS = ("float", "qat", "integer", "tflite")
HEADER = (
    "| method | bits | seed | float | QAT | integer | .tflite | argmax agreement | file bytes |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def kind_of(run: dict) -> tuple[str, str]:
    """The method of a run and its bits; runs of one kind differ in their seeds."""
    return run["method"], f"W{run['weight_bits']}A{run['activation_bits']}"


def row(run: dict) -> str:
    """One run as a table row."""
    cells = [*kind_of(run), str(run["seed"])]
    cells += [f"{run[f'{kind}_accuracy']:.2f}" for kind in KINDS]
    cells += [f"{run['argmax_agreement']:.2f} %", f"{run['file_bytes']:,}"]
    return f"| {' | '.join(cells)} |\n"


def summary_row(runs: list[dict]) -> str:
    """Mean and standard deviation over seeds."""
    method, bits = kind_of(runs[0])
    cells = [method, f"**{bits}**", f"{len(runs)} seeds"]
    for kind in KINDS:
        values = [run[f"{kind}_accuracy"] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells.append(f"**{statistics.mean(values):.2f}** ± {spread:.2f}")
    agreement = min(run["argmax_agreement"] for run in runs)
    cells += [f"at least {agreement:.2f} %", f"{max(run['file_bytes'] for run in runs):,}"]
    return f"| {' | '.join(cells)} |\n"


def table(folder: pathlib.Path) -> str:
    """All runs of a folder, the most bits first. The mean follows the runs of each kind."""
    paths = [path for path in sorted(folder.glob("w*_seed*.json")) if path.suffixes == [".json"]]
    runs = [json.loads(path.read_text()) for path in paths]
    text = HEADER
    for kind in sorted({kind_of(run) for run in runs}, key=lambda kind: kind[::-1], reverse=True):
        same = [run for run in runs if kind_of(run) == kind]
        text += "".join(map(row, same)) + summary_row(same)
    return text


def main(argv: list[str]) -> None:
    if len(argv) != 2 or not pathlib.Path(argv[1]).is_dir():
        raise app.UsageError("Give the folder with the runs' JSON files.")
    print(table(pathlib.Path(argv[1])), end="")


if __name__ == "__main__":
    app.run(main)
