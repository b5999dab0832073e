"""Compares gradient estimators on ResNet-8 and CIFAR-10: one grid, one budget, one float model.

    python benchmarks/estimators.py --bits=4 --bits=2 --bits=1 --reestimate --jobs=2

Variants have LSQ's learned scales and differ in the gradient through rounding. "ste" and
"pege_fixed" keep the calibrated scales. By default PEGE does not pull tensors of one bit.
"pege_pull_at_one_bit" pulls them. So do the variants that use a part of PEGE: its replacement
alone, its pull alone, and the pull on weights or activations alone. In "rising" and "fading" the
pull of weights grows or ends in the second half. WaveQ adds its regularizer to the straight-through
estimator. `benchmarks/study.py` says how a study runs and where its results go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import study
from study import Variant

import keras_qat


def _lsq(**options: Any) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits, **options)


def _fixed(**options: Any) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: keras_qat.STEConfig(weight_bits=bits, activation_bits=bits, **options)


def _pege(**options: Any) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: keras_qat.PEGEConfig(weight_bits=bits, activation_bits=bits, **options)


VARIANTS = {
    "pege": Variant(_pege()),
    "pege_pull_at_one_bit": Variant(_pege(pull_at_one_bit=True)),  # same as "pege" at more bits
    "pege_rising": Variant(
        _lsq(estimator="pege", replacement="random"),
        curriculum={"final_strength": 1.0},
    ),
    "pege_fading": Variant(
        _lsq(estimator="pege", replacement="random"),
        curriculum={"final_strength": 0.0},
    ),
    "pege_pull_on_weights": Variant(
        _lsq(estimator="pege", activation_estimator="ste", replacement="random")
    ),
    "pege_pull_on_activations": Variant(_lsq(activation_estimator="pege", replacement="random")),
    "lsq": Variant(_lsq()),
    "pege_replacement_only": Variant(_lsq(replacement="random")),
    "pege_pull_only": Variant(_lsq(estimator="pege")),
    "ewgs": Variant(_lsq(estimator="ewgs")),
    "aewgs": Variant(_lsq(estimator="aewgs")),
    "dsq": Variant(_lsq(estimator="dsq")),
    "waveq": Variant(_lsq(code_regularization=0.01)),
    "ste": Variant(_fixed()),
    "pege_fixed": Variant(_fixed(estimator="pege", replacement="random")),
}

if __name__ == "__main__":
    study.run(VARIANTS)
