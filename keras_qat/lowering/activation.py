"""Lowers ReLU, ReLU6, Softmax, and the place of the largest value."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_qat.integer import ops
from keras_qat.integer.graph import NO_GRID
from keras_qat.integer.ops.op import six_in_steps
from keras_qat.integer.ops.softmax import SOFTMAX_OUTPUT
from keras_qat.lowering.context import LoweringContext, Value, integer_operand
from keras_qat.lowering.pending import Pending


def lower_relu(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """A ReLU: fused into the op before it, or one MAXIMUM with the zero point."""
    (x,) = operands
    if isinstance(x, Pending):
        return x.activated("relu")
    return _clamp_at_zero(integer_operand(x, layer.name), context.name, context)


def lower_relu6(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """A ReLU6: fused into the op before it, or one MAXIMUM and one MINIMUM."""
    (x,) = operands
    if isinstance(x, Pending):
        return x.activated("relu6")
    source = integer_operand(x, layer.name)
    grid = context.qparams(source)
    six = grid.zero_point + int(np.rint(six_in_steps(grid)))
    if six >= grid.qmax:
        return _clamp_at_zero(source, context.name, context)
    low = _clamp_at_zero(source, f"{context.name}/relu", context)
    op = ops.Minimum((low,), context.name, bound=six)
    return context.builder.add(op, dataclasses.replace(context.qparams(low), qmax=six))


def lower_softmax(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """SOFTMAX, on the output grid that runtimes accept."""
    source = integer_operand(operands[0], layer.name)
    return context.builder.add(ops.Softmax((source,), context.name), SOFTMAX_OUTPUT)


def lower_argmax(layer: Any, operands: list[Value], context: LoweringContext) -> Value:
    """ARG_MAX, whose output is int32."""
    source = integer_operand(operands[0], layer.name)
    axis = layer.axis % (len(context.output_shape) + 2)
    return context.builder.add(ops.ArgMax((source,), context.name, axis), NO_GRID)


def _clamp_at_zero(source: str, name: str, context: LoweringContext) -> str:
    grid = context.qparams(source)
    if grid.qmin >= grid.zero_point:
        return source
    op = ops.Maximum((source,), name, bound=grid.zero_point)
    return context.builder.add(op, dataclasses.replace(grid, qmin=grid.zero_point))
