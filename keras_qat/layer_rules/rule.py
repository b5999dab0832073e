"""The rule of a layer type: the entries of the table of layers."""

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
    INDEX = "no grid: whole numbers, as an output of the model"
    FLOAT = "a quantizer where integers follow; the layer itself computes in float32"


class Stage(enum.Enum):
    """The state of a tensor without a grid. It decides which layers may join the op before it."""

    LINEAR = "weights applied; BatchNormalization and an activation may join"
    SUM = "a sum or a product of tensors; an activation may join"
    COMPLETE = "a quantizer must follow"
    FLOAT = "in float"


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a layer type becomes.

    Attributes:
        output: where the grid of the layer's output comes from.
        lower: the function that states the layer in integers; a weight layer has it in its wrapper.
        wrapper: the wrapper of a layer with weights to be quantized.
        yields: the stage of the layer's output (for `Output.QUANTIZE`).
        joins: the stages of an input that the layer fuses with, without a quantizer in between.
        minimum_bits: the fewest bits that the layer's output gets.
        wide_inputs: whether the layer's inputs get the `add_bits` of the config.
        unsigned: whether the layer's output is never negative.
        signed: whether the layer's output can be negative for inputs that are not.
        ceiling: ceiling of a layer that joins as `min(max(x, 0), ceiling)`, infinity for a ReLU.
            `None` for any other layer that joins: the quantizer then rounds the float result.
        stand_in: makes the layer that replaces this one in the quantized model.
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
