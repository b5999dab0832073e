"""Bit widths of a network as a whole: per weight, per activation and per multiply-accumulate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from keras_qat.callbacks.channel_capacity import FLOAT_BITS

WEIGHTS, ACTIVATIONS = "weights", "activations"

Records = Mapping[str, Mapping[str, Any]]


def average_bits(
    records: Records, sites: Mapping[str, Any], key: str = "mean_bits"
) -> dict[str, float]:
    """The average bits of a network, from the records of its quantized tensors.

    * `bits_per_weight`: `sum(n * b) / sum(n)` over quantized kernels of `n` weights with `b` bits.
    * `bits_per_activation`: the same over quantized tensors of `n` values in one example.
    * `bit_operations`: `sum(macs * b_w * b_a)` over multiplications of a kernel of `b_w` bits with
      an input of `b_a` bits, for one example: the products of single bits, as if every number was
      multiplied bit by bit. An input in float32 has 32 bits.
    * `bits_per_mac`: `sqrt(bit_operations / sum(macs))`. The network takes as many bit operations
      as one whose weights and activations all have this many bits: 4 for W4A4, and 4 for W2A8.

    Layers in float and biases are left out. An average over nothing is NaN, and so is one over
    unknown sizes.

    Args:
        records: `kind`, `values` and `key` of every quantized tensor, by its name.
        sites: every quantizer of the model by its name, with the `products` of each kernel.
        key: which number of a record counts as its bits; `"target_bits"` for the targets.
    """
    bits = {name: _known(record[key]) for name, record in records.items()}
    operations = macs = 0.0
    for name, site in sites.items():
        for product in site.products:
            count = math.nan if product.macs is None else product.macs
            other = FLOAT_BITS if product.operand is None else bits[product.operand]
            operations += count * bits[name] * other
            macs += count
    return {
        "bits_per_weight": _mean(records, bits, WEIGHTS),
        "bits_per_activation": _mean(records, bits, ACTIVATIONS),
        "bits_per_mac": math.sqrt(operations / macs) if macs else math.nan,
        "bit_operations": operations if macs else math.nan,
    }


def _mean(records: Records, bits: Mapping[str, float], kind: str) -> float:
    counts = {name: each["values"] for name, each in records.items() if each["kind"] == kind}
    total = sum(count * bits[name] for name, count in counts.items())
    return total / sum(counts.values()) if counts else math.nan


def _known(number: float | None) -> float:
    return math.nan if number is None else number
