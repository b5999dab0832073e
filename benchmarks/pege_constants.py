"""Seeks PEGE's constants on ResNet-8 and CIFAR-10, by the validation split alone.

    python benchmarks/pege_constants.py --bits=2 --seed=0 --notest --reestimate --jobs=2

The constants are the strength of the pull, the share of the run over which elements are replaced,
and the shape of that curriculum. One is changed at a time. `estimators.py` uses the chosen ones,
and reads the test set once.
"""

from __future__ import annotations

import study
from study import Variant

import keras_qat

START = {"strength": 0.02, "end": 0.5, "curriculum": "logarithmic"}
CHANGES = (
    {},
    {"strength": 0.1},
    {"strength": 0.5},
    {"end": 0.125},
    {"end": 0.25},
    {"end": 0.75},
    {"end": 1.0},
    {"curriculum": "linear"},
    {"curriculum": "exponential"},
    {"curriculum": "cosine"},
)


def _variant(change: dict) -> Variant:
    constants = {**START, **change}
    estimator = keras_qat.Estimator("pege", {"strength": constants.pop("strength")})
    return Variant(
        lambda bits: keras_qat.LSQConfig(
            weight_bits=bits, activation_bits=bits, estimator=estimator, replacement="random"
        ),
        curriculum=constants,
    )


VARIANTS = {
    "_".join(str(part) for item in change.items() for part in item) or "start": _variant(change)
    for change in CHANGES
}

if __name__ == "__main__":
    study.run(VARIANTS)
