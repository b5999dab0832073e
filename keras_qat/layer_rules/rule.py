"""What a layer can become: the words in which the table of layers is written."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from keras_qat.lowering.context import LoweringContext, Value
from keras_qat.quantized_layers import QuantizeWrapper, WeightOnlyWrapper

LowerFunction = Callable[[Any, list[Value], LoweringContext], Value]


class Output(enum.Enum):
    """Where the grid of a layer's output comes from."""

    QUANTIZE = "a quantizer of its own"
    SAME_AS_INPUT = "the input's grid; every value is on it already"
    ROUND_TO_INPUT = "the input's grid; values are rounded to it again"
    SHARED = "one grid with all inputs, whose quantizers become one"
    FIXED = "the runtimes' own grid"
    FLOAT = "a quantizer where integers follow; the layer itself computes in float32"


class Stage(enum.Enum):
    """What a tensor without a grid is, and so which layers may still join the op that makes it."""

    LINEAR = "weights applied; BatchNormalization and an activation may join"
    SUM = "a sum or a product of tensors; an activation may join"
    COMPLETE = "a quantizer must follow"
    FLOAT = "in float"


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a layer type becomes.

    Attributes:
        output: where the grid of its output comes from.
        lower: the layer in integers; weight layers state it in their wrapper.
        wrapper: the wrapper of a layer with weights to be quantized.
        yields: the stage of its output (for `Output.QUANTIZE`).
        joins: stages of an input that it fuses with, with no quantizer in between.
        minimum_bits: its output deserves at least so many bits.
        wide_inputs: what enters it gets the config's `add_bits`.
        unsigned: its output is never negative.
        signed: its output can be negative, whatever its inputs are.
        ceiling: of a layer that joins as `min(max(x, 0), ceiling)`, infinity for a ReLU. `None`
            where it joins as something else: its quantizer then rounds the float result.
        stand_in: makes the layer that takes its place in the quantized model.
    """

    output: Output
    lower: LowerFunction | None = None
    wrapper: type[QuantizeWrapper] | type[WeightOnlyWrapper] | None = None
    yields: Stage = Stage.COMPLETE
    joins: frozenset[Stage] = frozenset()
    minimum_bits: int = 1
    wide_inputs: bool = False
    unsigned: bool = False
    signed: bool = False
    ceiling: float | None = None
    stand_in: Callable[[Any], Any] | None = None
