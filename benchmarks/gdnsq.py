"""Compares GDNSQ with LSQ and STE on ResNet-8 and CIFAR-10: grids, distillation and bit widths.

    python benchmarks/gdnsq.py --jobs=2

`benchmarks/study.py` says how a study runs and where its results go.
"""

from __future__ import annotations

from collections.abc import Callable

import study
from study import Variant

import keras_qat


def _gdnsq(offset: str) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: keras_qat.GDNSQConfig(weight_bits=bits, activation_bits=bits, offset=offset)


VARIANTS = {
    "gdnsq_distilled": Variant(_gdnsq("snapped"), distills=True),
    "gdnsq": Variant(_gdnsq("snapped")),
    "lsq": Variant(lambda bits: keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)),
    "gdnsq_free_distilled": Variant(_gdnsq("free"), distills=True),
    "ste": Variant(lambda bits: keras_qat.STEConfig(weight_bits=bits, activation_bits=bits)),
    "gdnsq_free": Variant(_gdnsq("free")),
}

if __name__ == "__main__":
    study.run(VARIANTS)
