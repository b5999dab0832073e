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
from keras_qat.estimators import register_estimator


@register_estimator("blocked")
def blocked(upstream: Any, noise: Any, step: Any) -> Any:
    """No gradient through rounding: an element that is quantized is frozen.

    StoMPP (arXiv 2601.22660) replaces elements in this way.
    """
    return 0.0 * upstream


def _lsq(**options: Any) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits, **options)


def _fixed(**options: Any) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: keras_qat.STEConfig(weight_bits=bits, activation_bits=bits, **options)


def _pege(**options: Any) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: keras_qat.PEGEConfig(weight_bits=bits, activation_bits=bits, **options)


def _frozen(order: str) -> Variant:
    """Replacement by frozen elements, evenly over the whole run."""
    config = _lsq(estimator="blocked", replacement="random", order=order)
    return Variant(config, curriculum={"curriculum": "linear", "end": 1.0})


def _gdnsq_pege(bits: int) -> keras_qat.QuantizationConfig:
    return keras_qat.GDNSQConfig(
        weight_bits=bits, activation_bits=bits, estimator="pege", replacement="random"
    )


def _waveq(bits: int) -> keras_qat.QuantizationConfig:
    """Widths that start a bit above, at the strength of the row `waveq`."""
    return keras_qat.WaveQConfig(
        weight_bits=bits + 1,
        activation_bits=bits,
        code_regularization=0.01,
        width_regularization=0.001,
    )


def _dorefa(**options: Any) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: keras_qat.DoReFaConfig(weight_bits=bits, activation_bits=bits, **options)


VARIANTS = {
    "pege": Variant(_pege()),
    "pege_forward": Variant(_pege(order="forward")),
    "pege_reverse": Variant(_pege(order="reverse")),
    "pege_frozen": _frozen("global"),
    "pege_frozen_forward": _frozen("forward"),
    "pege_frozen_reverse": _frozen("reverse"),
    "pege_linear": Variant(_pege(), curriculum={"curriculum": "linear"}),
    "pege_exponential": Variant(_pege(), curriculum={"curriculum": "exponential"}),
    "pege_cosine": Variant(_pege(), curriculum={"curriculum": "cosine"}),
    "pege_at_once": Variant(_pege(replacement=None)),
    "pege_persistent": Variant(_pege(replacement="persistent")),
    "pege_error_first": Variant(_pege(replacement="error_first")),
    "pege_on_gdnsq": Variant(_gdnsq_pege),
    "dorefa": Variant(_dorefa()),
    "pege_on_dorefa": Variant(_dorefa(estimator="pege", replacement="random")),
    "pege_pull_at_one_bit": Variant(_pege(pull_at_one_bit=True)),  # same as "pege" at more bits
    "pege_rising": Variant(
        _pege(pull_at_one_bit=True),
        curriculum={"final_strength": 1.0},
    ),
    "pege_fading": Variant(
        _pege(pull_at_one_bit=True),
        curriculum={"final_strength": 0.0},
    ),
    "pege_pull_on_weights": Variant(_pege(activation_estimator="ste", pull_at_one_bit=True)),
    "pege_pull_on_activations": Variant(
        _pege(estimator="ste", activation_estimator="pege", pull_at_one_bit=True)
    ),
    "lsq": Variant(_lsq()),
    "pege_replacement_only": Variant(_lsq(replacement="random")),
    "pege_pull_only": Variant(_lsq(estimator="pege", pull_at_one_bit=True)),
    "ewgs": Variant(_lsq(estimator="ewgs")),
    "aewgs": Variant(_lsq(estimator="aewgs")),
    "dsq": Variant(_lsq(estimator="dsq")),
    "dsq_learned": Variant(_lsq(estimator=keras_qat.Estimator("dsq", {"learned": True}))),
    "waveq": Variant(_lsq(code_regularization=0.01)),
    "waveq_learned": Variant(_waveq),
    "ste": Variant(_fixed()),
    "pege_fixed": Variant(_fixed(estimator="pege", replacement="random", pull_at_one_bit=True)),
}

if __name__ == "__main__":
    study.run(VARIANTS)
