"""Measures what a training step costs under quantization: time and memory, relative to float.

    python benchmarks/training_step.py --output_dir=benchmarks/results/training_step \\
        --peer=keras2=A --peer=tfmot=A --peer=hgq2=B --peer=qkeras=C

All variants of one setting (network, batch size, jit) are alive at once, each in its own process.
They take turns of a few steps, so that other work on the machine hits all of them alike. A step's
cost is the median over its turns. CPU time counts all threads. "memory" is the peak in training
minus the memory that the process held with its float model built, before calibration. "first
steps" is the time of the first turn, tracing and compiling included.

A, B and C are virtual environments with the peers (A: `tensorflow-model-optimization tf_keras`,
B: `HGQ2`, C: `qkeras`), because the peers need different versions of Keras. TFMOT and QKeras train
in Keras 2. Compare them with Keras 2's own float step.

A finished setting is a JSON file in --output_dir and is not measured again. `--report_only` writes
the table and the picture from these files.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
from typing import Any

import matplotlib.pyplot as plt
from absl import app, flags, logging

NETWORKS = flags.DEFINE_multi_string("network", ["resnet8", "resnet20", "mobilenet"], "Networks.")
BATCH_SIZES = flags.DEFINE_multi_integer("batch_size", [128, 32, 256], "Batch sizes.")
JIT = flags.DEFINE_multi_enum("jit", ["off", "on"], ["off", "on"], "With and without XLA.")
VARIANTS = flags.DEFINE_multi_string(
    "variant", ["ste", "lsq", "pege", "gdnsq", "gdnsq_distilled"], "Ways to train, beside float."
)
PEERS = flags.DEFINE_multi_string("peer", [], "NAME=ENVIRONMENT: a peer and its environment.")
STEPS = flags.DEFINE_integer("steps", 8, "Steps in a turn.", 1)
TURNS = flags.DEFINE_integer("turns", 9, "Turns of every variant, the first one left out.", 3)
BITS = flags.DEFINE_integer("bits", 4, "Bits of weights and activations.", 1, 8)
OUTPUT_DIR = flags.DEFINE_string("output_dir", "training_step_output", "Where results go.")
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Measure nothing: table and picture.")

PEERS_OF_OURS = ("tfmot", "hgq2", "qkeras")
WORKER = pathlib.Path(__file__).with_name("training_step_worker.py")
TITLES = {
    "float": "Keras, float",
    "ste": "STE",
    "lsq": "LSQ",
    "pege": "PEGE",
    "gdnsq": "GDNSQ",
    "gdnsq_distilled": "GDNSQ, distilled",
    "keras2": "Keras 2, float",
    "tfmot": "TFMOT (8 bits)",
    "hgq2": "HGQ2",
    "qkeras": "QKeras",
}


class Worker:
    """One variant, training in its own process."""

    def __init__(self, variant: str, python: str, arguments: list[str]):
        self.variant = variant
        self.turns: list[dict[str, float]] = []
        self._last_words = ""
        self._process = subprocess.Popen(
            [python, str(WORKER), f"--variant={variant}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.alive = self._read() is not None

    def turn(self) -> None:
        """Trains a few steps. Then `turns` has one entry more, or the worker is dead."""
        print("run", file=self._process.stdin, flush=True)
        answer = self._read()
        if answer is None:
            self.alive = False
        else:
            self.turns.append(answer)

    def stop(self) -> str:
        """Ends the process. Returns its last words if it died by itself."""
        self._process.communicate("stop\n" if self.alive else "")
        return "" if self.alive else self._last_words or "it ended without a word"

    def _read(self) -> dict[str, float] | None:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
            self._last_words = line.strip() or self._last_words
        return None


def measure(network: str, batch_size: int, jit: str) -> dict[str, Any]:
    """Measures all variants of one setting, in turns."""
    arguments = [
        f"--network={network}",
        f"--batch_size={batch_size}",
        f"--jit={jit == 'on'}",
        f"--steps={STEPS.value}",
        f"--bits={BITS.value}",
    ]
    pythons = dict.fromkeys(["float", *VARIANTS.value], sys.executable)
    for peer in PEERS.value:
        name, _, environment = peer.partition("=")
        pythons[name] = str(pathlib.Path(environment) / "bin" / "python")
    workers = [Worker(name, python, arguments) for name, python in pythons.items()]
    for _ in range(TURNS.value):
        for worker in workers:
            if worker.alive:
                worker.turn()
    rows = {}
    for worker in workers:
        error = worker.stop()
        if error:
            logging.warning("%s, %s: %s", network, worker.variant, error)
        rows[worker.variant] = {"error": error} if error else summary(worker.turns)
    return {"network": network, "batch_size": batch_size, "jit": jit, "variants": rows}


def summary(turns: list[dict[str, float]]) -> dict[str, float]:
    first, *others = turns
    return {
        "cpu": statistics.median(turn["cpu"] for turn in others),
        "wall": statistics.median(turn["wall"] for turn in others),
        "megabytes": others[-1]["megabytes"],
        "first_steps": first["wall"] * STEPS.value,
    }


def report(settings: list[dict[str, Any]]) -> str:
    """Markdown: one table for each setting."""
    text = ""
    for setting in settings:
        rows, unit = setting["variants"], setting["variants"]["float"]
        jit = "with" if setting["jit"] == "on" else "without"
        text += f"\n{setting['network']}, batches of {setting['batch_size']}, {jit} jit\n\n"
        text += "| training | CPU time | over float | time | over float | memory | over float "
        text += "| first steps |\n|---|---:|---:|---:|---:|---:|---:|---:|\n"
        for name, row in rows.items():
            title = TITLES.get(name, name)
            if "error" in row:
                text += f"| {title} | failed: {row['error'][:100]} | | | | | | |\n"
                continue
            cells = [title]
            for field, form in (("cpu", "ms"), ("wall", "ms"), ("megabytes", "MB")):
                value = row[field] * (1000 if form == "ms" else 1)
                cells += [f"{value:.0f} {form}", f"{row[field] / unit[field]:.2f}"]
            text += f"| {' | '.join(cells)} | {row['first_steps']:.1f} s |\n"
    return text


def overview(settings: list[dict[str, Any]], field: str) -> str:
    """Markdown: a row for each setting, the `field` of each variant over the `field` of float."""
    names = list(dict.fromkeys(name for setting in settings for name in setting["variants"]))
    titles = [TITLES.get(name, name) for name in names if name != "float"]
    text = f"\n| network | batch | jit | {' | '.join(titles)} |\n"
    text += f"|---|---:|---|{'---:|' * len(titles)}\n"
    for setting in settings:
        rows = setting["variants"]
        cells = [setting["network"], str(setting["batch_size"]), setting["jit"]]
        for name in names:
            row = rows.get(name, {})
            if name != "float":
                cells.append(f"{row[field] / rows['float'][field]:.2f}" if field in row else "")
        text += f"| {' | '.join(cells)} |\n"
    return text


def draw(settings: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws CPU time over float at the first batch size: columns are networks, rows jit."""
    batch_size = BATCH_SIZES.value[0]
    known = {
        (setting["jit"], setting["network"]): setting["variants"]
        for setting in settings
        if setting["batch_size"] == batch_size
    }
    if not known:
        return
    jits, networks = ([*dict.fromkeys(keys)] for keys in zip(*known, strict=True))
    titles = list(dict.fromkeys(TITLES.get(k, k) for rows in known.values() for k in rows))
    figure, panels = plt.subplots(
        len(jits),
        len(networks),
        figsize=(max(5.5, 3.6 * len(networks)), 0.6 + 3 * len(jits)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for (jit, network), rows in known.items():
        axes = panels[jits.index(jit), networks.index(network)]
        measured = {k: row["cpu"] for k, row in rows.items() if "error" not in row}
        ratios = [cpu / measured["float"] for cpu in measured.values()]
        places = [titles.index(TITLES.get(k, k)) for k in measured]
        bars = axes.barh(places, ratios, color=[_color(k) for k in measured])
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
        axes.set_yticks(range(len(titles)), titles)
        axes.set_title(f"{network}, jit {jit}", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].invert_yaxis()
    figure.suptitle(f"CPU time of a training step over float, batches of {batch_size}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _color(variant: str) -> str:
    if variant in PEERS_OF_OURS:
        return "#f58518"
    return "#9d9da1" if "float" in TITLES.get(variant, variant) else "#4c78a8"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    folder = pathlib.Path(OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    settings = []
    for setting in itertools.product(NETWORKS.value, BATCH_SIZES.value, JIT.value):
        path = folder / "{}_batch{}_jit_{}.json".format(*setting)
        if not path.exists() and not REPORT_ONLY.value:
            path.write_text(json.dumps(measure(*setting), indent=1) + "\n")
            logging.info("%s is done", path.name)
        if path.exists():
            settings.append(json.loads(path.read_text()))
    print(report(settings), end="")
    for field in ("cpu", "megabytes"):
        print(f"\n{field} over float\n{overview(settings, field)}", end="")
    if settings:
        draw(settings, folder / "training_step.png")


if __name__ == "__main__":
    app.run(main)
