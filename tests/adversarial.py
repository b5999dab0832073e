"""Exports adversarial graphs and networks, and runs each file on extremes and further inputs.

    python -m tests.adversarial --graphs=4000 --networks=1000

Each is drawn from its own seed. They run in processes of 500 graphs and 50 networks, so that one
that ends a runtime is counted and named, and the others go on. An outcome is "proven", "refused",
"wrong", or "crashed".
"""

from __future__ import annotations

import collections
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from absl import app, flags

from keras_qat.errors import LoweringError, UnsupportedLayerError
from tests.adversarial_graphs import prove_graph
from tests.adversarial_networks import prove_network
from tflite_export import ExportError, VerificationError

GRAPHS = flags.DEFINE_integer("graphs", 4000, "Integer graphs.")
NETWORKS = flags.DEFINE_integer("networks", 1000, "Keras models.")
FIRST = flags.DEFINE_integer("first", 0, "The first seed.")

_REFUSALS = (ExportError, VerificationError, ValueError, UnsupportedLayerError, LoweringError)
_AT_ONCE = {"graph": 500, "network": 50}


PROVE = {"graph": prove_graph, "network": prove_network}


def outcomes(kind: str, seeds: Iterator[int] | range, folder: pathlib.Path) -> Iterator[str]:
    """What became of every seed for every target: `"proven"`, `"refused ..."` or `"wrong ..."`."""
    for seed in seeds:
        for target in ("litert", "tflm"):
            try:
                PROVE[kind](seed, target, folder)
                yield f"proven {kind} {seed} {target}"
            except _REFUSALS as error:
                said = " ".join(str(error).split())
                outcome = "wrong" if "report" in said else "refused"  # no way out is named
                yield f"{outcome} {kind} {seed} {target}: {type(error).__name__}: {said}"
            except Exception as error:
                said = " ".join(str(error).split())
                yield f"wrong {kind} {seed} {target}: {type(error).__name__}: {said}"


def _in_a_process(kind: str, first: int, stop: int) -> Iterator[str]:
    """The outcomes of a range of seeds. After a crash, another process takes the rest."""
    while first < stop:
        command = [
            sys.executable,
            "-m",
            "tests.adversarial",
            "--child",
            kind,
            str(first),
            str(stop),
        ]
        ran = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in ran.stdout.splitlines() if f" {kind} " in line]
        yield from lines
        if ran.returncode == 0:
            return
        if lines:
            seed, target = lines[-1].split()[2:4]
            first = int(seed) + target.startswith("tflm")
        yield f"crashed {kind} {first} exit {ran.returncode}: {ran.stderr[-300:]!r}"
        first += 1


def _at_once(model, x, *_, **__):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(x, training=False))


def _child(kind: str, first: int, stop: int) -> None:
    keras.Model.predict = keras.Model.predict_on_batch = _at_once  # tracing would take longest
    tf.config.run_functions_eagerly(True)
    with tempfile.TemporaryDirectory() as folder:
        for line in outcomes(kind, range(first, stop), pathlib.Path(folder)):
            print(line, flush=True)


def main(_: list[str]) -> None:
    """Prints what is neither proven nor refused, and the counts."""
    counts: collections.Counter[str] = collections.Counter()
    for kind, count in (("graph", GRAPHS.value), ("network", NETWORKS.value)):
        for first in range(FIRST.value, FIRST.value + count, _AT_ONCE[kind]):
            stop = min(first + _AT_ONCE[kind], FIRST.value + count)
            for line in _in_a_process(kind, first, stop):
                outcome = line.split()[0]
                counts[f"{kind} {outcome}"] += 1
                if outcome in ("wrong", "crashed"):
                    print(line, flush=True)
            print(stop, dict(counts), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        app.run(main)
