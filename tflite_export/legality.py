"""What a graph has to respect so that the file computes exactly what the graph states."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_qat.integer import IntegerGraph, QuantParams, ops
from keras_qat.integer.accumulators import accumulator_range, leaves_int32
from keras_qat.integer.fixed_point import get_profile
from keras_qat.integer.headroom import real_multiplier
from keras_qat.integer.ops.op import activation_range, six_in_steps
from keras_qat.integer.ops.softmax import MAX_SOFTMAX_CLASSES, SOFTMAX_OUTPUT
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN
from tflite_export.errors import ExportError
from tflite_export.file_model import IoDtype
from tflite_export.float_parts import network_of
from tflite_export.targets import Target

_LARGEST_FACTOR = 64
"""Of an interpolation: fixed-point weights have 10 bits; a factor takes one more than its own."""


def check_legal(graph: IntegerGraph, target: Target) -> None:
    """Raises ExportError for the first thing that the target cannot hold or would compute else."""
    if not graph.ops:
        raise ExportError("The graph has no ops: there is nothing to export.")
    for tensor in graph.tensors.values():
        if tensor.shape[0] != 1:
            raise ExportError(
                f"Tensor {tensor.name!r} must have batch 1. Received: shape {tensor.shape}"
            )
        if tensor.qparams.axis is not None:
            raise ExportError(
                f"Activation {tensor.name!r} needs one scale, not one per channel. "
                f"Received: {tensor.qparams.scale.size} scales"
            )
        if not INT8_MIN <= tensor.qparams.zero_point <= INT8_MAX:
            raise ExportError(
                f"Tensor {tensor.name!r} needs a zero point within int8. "
                f"Received: zero_point={tensor.qparams.zero_point}"
            )
    _check_float_parts(graph, target)
    for op in graph.ops:
        if type(op) not in target.op_types:
            raise ExportError(
                f"Target {target.name!r} does not run the op of {op.output!r}. "
                f"Received: {type(op).__name__}"
            )
        _CHECKS[type(op)](op, graph, target)


def _check_float_parts(graph: IntegerGraph, target: Target) -> None:
    parts = [op for op in graph.ops if isinstance(op, ops.FloatPart)]
    if parts and ops.FloatPart not in target.op_types:
        layers = ", ".join(repr(layer) for op in parts for layer in op.layers)
        raise ExportError(
            f"Target {target.name!r} runs integers alone, and these layers stay in float: "
            f"{layers}. Replace them by layers that have a rule, split the model there, or export "
            "for 'litert'."
        )


def runnable_profiles(graph: IntegerGraph, target: Target) -> tuple[str, ...]:
    """The profiles of the target whose runtime runs the graph on this machine at all."""
    classes = [graph.tensors[op.output].shape[-1] for op in graph.ops if type(op) is ops.Softmax]
    most = max(classes, default=0)
    return tuple(profile for profile in target.profiles if runs_softmax(profile, most))


def runs_softmax(profile: str, classes: int) -> bool:
    """Whether that runtime survives a softmax over so many classes."""
    return get_profile(profile).float_softmax or classes <= MAX_SOFTMAX_CLASSES


def check_float_inputs(graph: IntegerGraph, io_dtype: IoDtype) -> None:
    """A QUANTIZE saturates at int8's ends only: a narrower input grid needs int8 inputs."""
    for name in graph.inputs:
        grid = graph.tensors[name].qparams
        if io_dtype == "float32" and (grid.qmin, grid.qmax) != (INT8_MIN, INT8_MAX):
            raise ExportError(
                f"Input {name!r} has a grid of {grid.levels} levels, which a QUANTIZE op does not "
                "clamp to. Export with io_dtype='int8' or quantize the input to 8 bits. "
                f"Received: qmin={grid.qmin}, qmax={grid.qmax}"
            )


def _check_linear(op: ops.LinearOp, graph: IntegerGraph, target: Target) -> None:
    weight = op.weight
    if weight.qparams.zero_point != 0 or weight.qparams.axis != op.channel_axis:
        raise ExportError(
            f"The weights of {op.output!r} need zero point 0 and one scale per output channel "
            f"(axis {op.channel_axis}). Received: zero_point={weight.qparams.zero_point}, "
            f"axis={weight.qparams.axis}"
        )
    if weight.values.min(initial=0) < -INT8_MAX or weight.values.max(initial=0) > INT8_MAX:
        raise ExportError(
            f"The weights of {op.output!r} must lie within +-127; use a narrow range. Received: "
            f"{weight.values.min()}..{weight.values.max()}"
        )
    multiplier = real_multiplier(op, graph)
    outside = (multiplier < target.smallest_multiplier) | (multiplier >= target.multiplier_limit)
    if outside.any():
        channel = int(np.argmax(outside))
        raise ExportError(
            f"Channel {channel} of {op.output!r} is rescaled by {multiplier[channel]:.3g}, outside "
            f"what {target.name!r} computes ({target.smallest_multiplier:.3g} to "
            f"{target.multiplier_limit:g}). Give the output a scale nearer to the input's."
        )
    low, high = accumulator_range(op, graph)
    largest = np.maximum(-low, high)
    wraps = leaves_int32(largest, multiplier)
    if wraps.any():
        channel = int(np.argmax(wraps))
        raise ExportError(
            f"Channel {channel} of {op.output!r} has an accumulator of up to {largest[channel]:,}, "
            f"which its multiplier of {multiplier[channel]:.3g} takes out of int32: kernels would "
            "wrap, and answer with the other sign. The range of its output is small beside what "
            "its weights can yield. Calibrate, or train on, data that has larger values there."
        )
    _require_activation(op, graph)


def _check_transpose_conv(op: ops.TransposeConv2D, graph: IntegerGraph, target: Target) -> None:
    """XNNPACK leaves the rest to another kernel, which rounds in another way."""
    window = op.window
    if op.padding == "same" and any(map(operator.lt, window.size, window.strides)):
        raise ExportError(
            f"TransposeConv2D {op.output!r} with padding 'same' needs a window that is no smaller "
            f"than its strides. Received: window {window.size}, strides {window.strides}"
        )
    _check_linear(op, graph, target)


def _check_sum(op: ops.Add | ops.Sub, graph: IntegerGraph, target: Target) -> None:
    y = graph.tensors[op.output].qparams
    for name in op.inputs:
        ratio = float(graph.tensors[name].qparams.scale) / float(y.scale)
        if not target.smallest_add_ratio <= ratio < target.add_ratio_limit:
            raise ExportError(
                f"{type(op).__name__} {op.output!r} rescales {name!r} by {ratio:.3g}, outside what "
                f"{target.name!r} computes ({target.smallest_add_ratio:.3g} to "
                f"{target.add_ratio_limit:g}). Give input and output scales nearer to each other."
            )
    _require_activation(op, graph)


def _check_mul(op: ops.Mul, graph: IntegerGraph, target: Target) -> None:
    x, w, y = (graph.tensors[name].qparams.scale for name in (*op.inputs, op.output))
    multiplier = float(x * w / y)
    if not target.smallest_mul_multiplier <= multiplier < target.multiplier_limit:
        raise ExportError(
            f"Mul {op.output!r} rescales its product by {multiplier:.3g}, outside what "
            f"{target.name!r} computes ({target.smallest_mul_multiplier:.3g} to "
            f"{target.multiplier_limit:g}). Give the output a scale nearer to the product's."
        )
    _require_activation(op, graph)


def _check_prelu(op: ops.PReLU, graph: IntegerGraph, target: Target) -> None:
    slopes = op.slopes.qparams
    if slopes.zero_point != 0 or slopes.axis is not None:
        raise ExportError(
            f"The slopes of PReLU {op.output!r} need zero point 0 and one scale. Received: {slopes}"
        )
    x, y = (graph.tensors[name].qparams.scale for name in (op.inputs[0], op.output))
    for multiplier in (float(x / y), float(x * slopes.scale / y)):
        if not target.smallest_multiplier <= multiplier < target.multiplier_limit:
            raise ExportError(
                f"PReLU {op.output!r} rescales by {multiplier:.3g}, outside what {target.name!r} "
                f"computes ({target.smallest_multiplier:.3g} to {target.multiplier_limit:g}). Give "
                "the output a scale nearer to the input's."
            )
    _require_range(op, graph, (INT8_MIN, INT8_MAX))


def _check_maximum(op: ops.Maximum, graph: IntegerGraph, target: Target) -> None:
    x = _require_same_scale(op, graph)
    _require_range(op, graph, (max(x.qmin, op.bound), max(x.qmax, op.bound)))


def _check_minimum(op: ops.Minimum, graph: IntegerGraph, target: Target) -> None:
    x = _require_same_scale(op, graph)
    _require_range(op, graph, (min(x.qmin, op.bound), min(x.qmax, op.bound)))


def _check_maximum_of_two(op: ops.MaximumOfTwo, graph: IntegerGraph, target: Target) -> None:
    x, w = (_require_same_scale(op, graph, name) for name in op.inputs)
    _require_range(op, graph, (max(x.qmin, w.qmin), max(x.qmax, w.qmax)))


def _check_minimum_of_two(op: ops.MinimumOfTwo, graph: IntegerGraph, target: Target) -> None:
    x, w = (_require_same_scale(op, graph, name) for name in op.inputs)
    _require_range(op, graph, (min(x.qmin, w.qmin), min(x.qmax, w.qmax)))


def _check_same_grid(op: ops.IntegerOp, graph: IntegerGraph, target: Target) -> None:
    x = _require_same_scale(op, graph)
    _require_range(op, graph, (x.qmin, x.qmax))


def _check_concatenate(op: ops.Concatenate, graph: IntegerGraph, target: Target) -> None:
    for name in op.inputs:
        _require_same_scale(op, graph, name)
    grids = [graph.tensors[name].qparams for name in op.inputs]
    low, high = min(grid.qmin for grid in grids), max(grid.qmax for grid in grids)
    _require_range(op, graph, (low, high))


def _check_interpolate(op: ops.InterpolatePixels, graph: IntegerGraph, target: Target) -> None:
    if any(factor.bit_count() != 1 or factor > _LARGEST_FACTOR for factor in op.factors):
        raise ExportError(
            f"InterpolatePixels {op.output!r} needs factors of 1, 2, 4 up to {_LARGEST_FACTOR}: "
            f"the fixed-point weights of others are not exact. Received: {op.factors}"
        )
    _check_same_grid(op, graph, target)


def _check_pad(op: ops.Pad, graph: IntegerGraph, target: Target) -> None:
    x = _require_same_scale(op, graph)
    low, high = min(x.qmin, x.zero_point), max(x.qmax, x.zero_point)
    _require_range(op, graph, (low, high))


def _check_mean(op: ops.Mean, graph: IntegerGraph, target: Target) -> None:
    """A mean has no fused clamp; that of a tensor without negative values has none either."""
    x, y = graph.tensors[op.inputs[0]].qparams, graph.tensors[op.output].qparams
    count = math.prod(graph.tensors[op.inputs[0]].shape[1:3])
    ratio = float(x.scale) / float(y.scale)
    spare = count.bit_length() - 1  # bits by which the kernel shifts less, as it divides
    if leaves_int32(np.int64(count * (INT8_MAX - INT8_MIN)), ratio, spare):
        raise ExportError(
            f"Mean {op.output!r} of {count} values is rescaled by {ratio:.3g}, which takes their "
            "sum out of int32: kernels would wrap. Give the output a scale nearer to the input's."
        )
    if x.qmin >= x.zero_point and y.qmin == y.zero_point:
        _require_range(op, graph, (y.zero_point, INT8_MAX))
    else:
        _require_range(op, graph, (INT8_MIN, INT8_MAX))


def _check_softmax(op: ops.Softmax, graph: IntegerGraph, target: Target) -> None:
    y = graph.tensors[op.output]
    if y.qparams != SOFTMAX_OUTPUT:
        raise ExportError(
            f"Softmax {op.output!r} must have the grid SOFTMAX_OUTPUT (scale 1/256, zero point "
            f"-128). Received: {y.qparams}"
        )
    if not any(runs_softmax(profile, y.shape[-1]) for profile in target.profiles):
        raise ExportError(
            f"Softmax {op.output!r} has {y.shape[-1]} classes; the fixed-point kernel aborts the "
            f"process above {MAX_SOFTMAX_CLASSES}. Export the logits instead."
        )
    scale = float(graph.tensors[op.inputs[0]].qparams.scale)
    if scale <= 2.0**-26:
        raise ExportError(
            f"The input of softmax {op.output!r} needs a scale above 2**-26. Received: {scale:.3g}"
        )


def _check_float_part(op: ops.FloatPart, graph: IntegerGraph, target: Target) -> None:
    """A QUANTIZE saturates at int8's ends."""
    network_of(op)
    _require_range(op, graph, (INT8_MIN, INT8_MAX))


def _check_lookup(op: ops.Lookup, graph: IntegerGraph, target: Target) -> None:
    """Any table between any grids; the graph holds that entries are on the output's."""


def _require_activation(op: ops.LinearOp | ops.ArithmeticOp, graph: IntegerGraph) -> None:
    """The fused clamp gives the grid its range, and every runtime finds the same clamp."""
    grid = graph.tensors[op.output].qparams
    low, high = activation_range(op.activation, grid)
    if op.activation == "relu6":
        six = six_in_steps(grid)
        if high != min(INT8_MAX, int(np.rint(six + np.float32(grid.zero_point)))):
            raise ExportError(
                f"The fused relu6 of {op.output!r} ends half way between two integers, where "
                "runtimes round differently. Change the scale a little. "
                f"Received: 6 / scale = {float(six):g}"
            )
    _require_range(op, graph, (low, high))


def _require_same_scale(
    op: ops.IntegerOp, graph: IntegerGraph, name: str | None = None
) -> QuantParams:
    x, y = graph.tensors[name or op.inputs[0]].qparams, graph.tensors[op.output].qparams
    if x.zero_point != y.zero_point or not np.array_equal(x.scale, y.scale):
        raise ExportError(
            f"{type(op).__name__} {op.output!r} keeps the scale and zero point of its input. "
            f"Received: input {x}, output {y}"
        )
    return x


def _require_range(op: ops.IntegerOp, graph: IntegerGraph, implied: tuple[int, int]) -> None:
    grid = graph.tensors[op.output].qparams
    if (grid.qmin, grid.qmax) != implied:
        raise ExportError(
            f"{type(op).__name__} {op.output!r} leaves integers {implied[0]}..{implied[1]}, but "
            f"its tensor states {grid.qmin}..{grid.qmax}: a clamp would be lost. Place the grid "
            "at the top of int8 (QuantParams.placed_in_int8), fuse a ReLU or add a Maximum."
        )


_Check = Callable[[Any, IntegerGraph, Target], None]

_CHECKS: dict[type[ops.IntegerOp], _Check] = {
    ops.Add: _check_sum,
    ops.AveragePool2D: _check_same_grid,
    ops.Concatenate: _check_concatenate,
    ops.Conv2D: _check_linear,
    ops.Crop: _check_same_grid,
    ops.DepthwiseConv2D: _check_linear,
    ops.FloatPart: _check_float_part,
    ops.FullyConnected: _check_linear,
    ops.InterpolatePixels: _check_interpolate,
    ops.Lookup: _check_lookup,
    ops.MaxPool2D: _check_same_grid,
    ops.Maximum: _check_maximum,
    ops.MaximumOfTwo: _check_maximum_of_two,
    ops.Mean: _check_mean,
    ops.Minimum: _check_minimum,
    ops.MinimumOfTwo: _check_minimum_of_two,
    ops.Mul: _check_mul,
    ops.PReLU: _check_prelu,
    ops.Pad: _check_pad,
    ops.RepeatPixels: _check_same_grid,
    ops.Reshape: _check_same_grid,
    ops.Softmax: _check_softmax,
    ops.Sub: _check_sum,
    ops.Transpose: _check_same_grid,
    ops.TransposeConv2D: _check_transpose_conv,
}
