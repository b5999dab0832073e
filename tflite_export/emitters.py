"""From integer ops to file operators: one emitter per op type, one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from keras_qat.integer import IntegerGraph, IntegerTensor, ops
from tflite_export import lookup_table
from tflite_export.emission import Emission, file_operator, int32_constant
from tflite_export.errors import ExportError
from tflite_export.file_model import FileModel, FileTensor, IoDtype
from tflite_export.float_parts import emit_float_part
from tflite_export.lookup_emitters import emit_lookup, emit_lookup_compact
from tflite_export.shape_emitters import (
    emit_crop,
    emit_interpolate_pixels,
    emit_pad,
    emit_repeat_pixels,
    emit_reshape,
    emit_transpose,
)
from tflite_export.storage import StoredGraph, WeightStorage

DESCRIPTION = "Quantization-aware trained integer network, written by keras_qat."
_OPS_OF_ONE_EXAMPLE = (ops.FloatPart, ops.TransposeConv2D)
_LARGEST_SIX = 2.0**30
_FUSED = {"linear": "NONE", "relu": "RELU", "relu6": "RELU6"}


def emit_model(stored: StoredGraph, io_dtype: IoDtype = "int8", compact: bool = False) -> FileModel:
    """The whole file for a graph; int8 tensors keep the graph's names.

    Args:
        stored: a legalized graph.
        io_dtype: `"int8"`, or `"float32"` for a QUANTIZE behind every input and a DEQUANTIZE
            before every output.
        compact: see `FileModel`.

    Raises:
        ExportError: an op type without an emitter.
    """
    graph = stored.graph
    tensors = [_activation(tensor) for tensor in graph.tensors.values()]
    operators = []
    for op in graph.ops:
        native = stored.native.get(op.output)
        emission = Emission((), native) if native else _emitter_of(op, compact)(op, graph)
        if op.output in stored.storage:
            emission = _with_storage(emission, stored.storage[op.output])
        tensors.extend(_without_bias_scale(emission.constants) if compact else emission.constants)
        operators.extend([*emission.before, emission.operator])
    inputs = {name: name for name in graph.inputs}
    outputs = {name: name for name in graph.outputs}
    if io_dtype == "float32":
        on_grid = [name for name in graph.inputs if graph.tensors[name].on_grid]
        wrapped = {name: f"{name}/float32_input" for name in on_grid}
        inputs |= wrapped
        outputs = {name: f"{name}/float32_output" for name in graph.outputs}
        tensors.extend(_float_tensor(graph, *pair) for pair in wrapped.items())
        tensors.extend(_float_tensor(graph, *pair) for pair in outputs.items())
        operators = [
            *(file_operator("QUANTIZE", 1, (x,), name) for name, x in wrapped.items()),
            *operators,
            *(file_operator("DEQUANTIZE", 2, (name,), y) for name, y in outputs.items()),
        ]
    if any(isinstance(op, _OPS_OF_ONE_EXAMPLE) for op in graph.ops):
        tensors = [dataclasses.replace(tensor, resizable=False) for tensor in tensors]
    return FileModel(
        description=DESCRIPTION,
        tensors=_by_unique_name(tensors),
        operators=tuple(operators),
        inputs=inputs,
        outputs=outputs,
        compact=compact,
    )


def _emitter_of(op: ops.IntegerOp, compact: bool) -> Emitter:
    if compact and type(op) in COMPACT_EMITTERS:
        return COMPACT_EMITTERS[type(op)]
    if type(op) not in EMITTERS:
        known = ", ".join(sorted(kind.__name__ for kind in EMITTERS))
        raise ExportError(
            f"Op {op.output!r} has a type without an emitter; these have one: {known}. "
            f"Received: {type(op).__name__}"
        )
    return EMITTERS[type(op)]


def _with_storage(emission: Emission, storage: WeightStorage) -> Emission:
    """The emission of a linear op with its weights stored in another way."""
    weight, *others = emission.constants
    if storage == "int4":
        narrow = dataclasses.replace(weight, dtype="int4")
        return dataclasses.replace(emission, constants=(narrow, *others))
    if storage == "lut" and weight.data is not None:
        # The decoder takes a single scale for one along the first axis.
        axis = weight.axis if weight.scale.size > 1 else 0
        parts = lookup_table.encode(weight.data, axis)
        names = (f"{weight.name}/indices", f"{weight.name}/tables")
        encoded = [
            FileTensor(name, part.shape, "uint8", data=part)
            for name, part in zip(names, parts, strict=True)
        ]
        decoded = dataclasses.replace(weight, data=None, axis=axis)
        decode = file_operator(lookup_table.DECODE_OPERATOR, 1, names, weight.name)
        return Emission((*encoded, decoded, *others), emission.operator, (decode,))
    return emission


def _without_bias_scale(constants: Iterable[FileTensor]) -> list[FileTensor]:
    """Kernels take an int32 bias as it is; nothing reads its scales where there are several.

    FULLY_CONNECTED with a single output compares the one scale with that of its accumulator.
    """
    no_scale = np.zeros(0, np.float32)
    return [
        dataclasses.replace(tensor, scale=no_scale)
        if tensor.dtype == "int32" and tensor.data is not None and tensor.scale.size > 1
        else tensor
        for tensor in constants
    ]


def _by_unique_name(tensors: list[FileTensor]) -> Mapping[str, FileTensor]:
    named = {tensor.name: tensor for tensor in tensors}
    if len(named) < len(tensors):
        names = [tensor.name for tensor in tensors]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ExportError(
            f"Two tensors of the file would share a name; rename the layer. Received: {twice}"
        )
    return named


def _conv_2d(op: ops.Conv2D, graph: IntegerGraph) -> Emission:
    fields = {**_window_fields(op), **_fused(op, graph), **_dilation(op)}
    return _linear("CONV_2D", 3, "Conv2DOptions", fields, op, graph)


def _depthwise_conv_2d(op: ops.DepthwiseConv2D, graph: IntegerGraph) -> Emission:
    channels = graph.tensors[op.inputs[0]].shape[3]
    fields = {
        **_window_fields(op),
        **_fused(op, graph),
        **_dilation(op),
        "depthMultiplier": op.weight.values.shape[3] // channels,
    }
    return _linear("DEPTHWISE_CONV_2D", 3, "DepthwiseConv2DOptions", fields, op, graph)


def _transpose_conv_2d(op: ops.TransposeConv2D, graph: IntegerGraph) -> Emission:
    """The output's shape comes first, as a constant: the batch is 1 for good."""
    size = int32_constant(f"{op.output}/size", graph.tensors[op.output].shape)
    fields = {**_window_fields(op), **_fused(op, graph)}
    linear = _linear("TRANSPOSE_CONV", 4, "TransposeConvOptions", fields, op, graph)
    source, weight, bias = linear.operator.inputs
    operator = dataclasses.replace(linear.operator, inputs=(size.name, weight, source, bias))
    return Emission((*linear.constants, size), operator)


def _fully_connected(op: ops.FullyConnected, graph: IntegerGraph) -> Emission:
    fields = {**_fused(op, graph), "keepNumDims": len(graph.tensors[op.output].shape) > 2}
    return _linear("FULLY_CONNECTED", 4, "FullyConnectedOptions", fields, op, graph)


def _linear(
    code: str,
    version: int,
    options: str,
    fields: Mapping[str, Any],
    op: ops.LinearOp,
    graph: IntegerGraph,
) -> Emission:
    """Weights with one scale per channel, and the int32 bias born on the final scales."""
    input_scale = graph.tensors[op.inputs[0]].qparams.scale
    weight = FileTensor(
        name=f"{op.output}/weight",
        shape=op.weight.values.shape,
        dtype="int8",
        scale=op.weight.qparams.scale,
        axis=op.weight.qparams.axis or 0,
        data=op.weight.values.astype(np.int8),
    )
    bias = FileTensor(
        name=f"{op.output}/bias",
        shape=op.bias.shape,
        dtype="int32",
        scale=op.bias_scale(input_scale),
        data=op.integer_bias(input_scale),
    )
    operands = (*op.inputs, weight.name, bias.name)
    return Emission(
        (weight, bias), file_operator(code, version, operands, op.output, options, fields)
    )


def _of_two(code: str, options: str) -> Emitter:
    """The emitter of an op that joins two tensors."""

    def emit(op: ops.IntegerOp, graph: IntegerGraph) -> Emission:
        fields = _fused(op, graph) if isinstance(op, ops.ArithmeticOp) else {}
        return Emission((), file_operator(code, 2, op.inputs, op.output, options, fields))

    return emit


def _mul(op: ops.Mul, graph: IntegerGraph) -> Emission:
    """Version 3 says that the product is rescaled by 1 or more."""
    x, w, y = (graph.tensors[name].qparams.scale for name in (*op.inputs, op.output))
    version = 3 if x * w / y >= 1 else 2
    return Emission(
        (), file_operator("MUL", version, op.inputs, op.output, "MulOptions", _fused(op, graph))
    )


def _maximum(op: ops.Maximum, graph: IntegerGraph) -> Emission:
    return _clamp("MAXIMUM", op, graph)


def _minimum(op: ops.Minimum, graph: IntegerGraph) -> Emission:
    return _clamp("MINIMUM", op, graph)


def _clamp(code: str, op: ops.Maximum | ops.Minimum, graph: IntegerGraph) -> Emission:
    """The bound is a constant on the grid of the input, as the kernels demand."""
    grid = graph.tensors[op.inputs[0]].qparams
    bound = FileTensor(
        name=f"{op.output}/bound",
        shape=(1,),
        dtype="int8",
        scale=grid.scale.reshape(1),
        zero_point=grid.zero_point,
        data=np.full(1, op.bound, dtype=np.int8),
    )
    operands = (*op.inputs, bound.name)
    return Emission((bound,), file_operator(code, 2, operands, op.output, "MaximumMinimumOptions"))


def _prelu(op: ops.PReLU, graph: IntegerGraph) -> Emission:
    slopes = FileTensor(
        name=f"{op.output}/slopes",
        shape=op.slopes.values.shape,
        dtype="int8",
        scale=op.slopes.qparams.scale.reshape(1),
        data=op.slopes.values.astype(np.int8),
    )
    return Emission((slopes,), file_operator("PRELU", 1, (*op.inputs, slopes.name), op.output))


def _concatenate(op: ops.Concatenate, graph: IntegerGraph) -> Emission:
    fields = {"axis": op.axis, "fusedActivationFunction": "NONE"}
    options = "ConcatenationOptions"
    return Emission((), file_operator("CONCATENATION", 2, op.inputs, op.output, options, fields))


def _max_pool_2d(op: ops.MaxPool2D, graph: IntegerGraph) -> Emission:
    return _pool("MAX_POOL_2D", op)


def _average_pool_2d(op: ops.AveragePool2D, graph: IntegerGraph) -> Emission:
    return _pool("AVERAGE_POOL_2D", op)


def _pool(code: str, op: ops.MaxPool2D | ops.AveragePool2D) -> Emission:
    height, width = op.pool_size
    fields = {
        **_window_fields(op),
        "filterHeight": height,
        "filterWidth": width,
        "fusedActivationFunction": "NONE",
    }
    return Emission((), file_operator(code, 2, op.inputs, op.output, "Pool2DOptions", fields))


def _mean(op: ops.Mean, graph: IntegerGraph) -> Emission:
    axes = int32_constant(f"{op.output}/axes", [1, 2])
    fields = {"keepDims": False}
    operands = (*op.inputs, axes.name)
    return Emission(
        (axes,), file_operator("MEAN", 2, operands, op.output, "ReducerOptions", fields)
    )


def _softmax(op: ops.Softmax, graph: IntegerGraph) -> Emission:
    fields = {"beta": 1.0}
    return Emission((), file_operator("SOFTMAX", 2, op.inputs, op.output, "SoftmaxOptions", fields))


Emitter = Callable[[Any, IntegerGraph], Emission]

EMITTERS: dict[type[ops.IntegerOp], Emitter] = {
    ops.Add: _of_two("ADD", "AddOptions"),
    ops.AveragePool2D: _average_pool_2d,
    ops.Concatenate: _concatenate,
    ops.Conv2D: _conv_2d,
    ops.Crop: emit_crop,
    ops.DepthwiseConv2D: _depthwise_conv_2d,
    ops.FloatPart: emit_float_part,
    ops.FullyConnected: _fully_connected,
    ops.InterpolatePixels: emit_interpolate_pixels,
    ops.Lookup: emit_lookup,
    ops.MaxPool2D: _max_pool_2d,
    ops.Maximum: _maximum,
    ops.MaximumOfTwo: _of_two("MAXIMUM", "MaximumMinimumOptions"),
    ops.Mean: _mean,
    ops.Minimum: _minimum,
    ops.MinimumOfTwo: _of_two("MINIMUM", "MaximumMinimumOptions"),
    ops.Mul: _mul,
    ops.PReLU: _prelu,
    ops.Pad: emit_pad,
    ops.RepeatPixels: emit_repeat_pixels,
    ops.Reshape: emit_reshape,
    ops.Softmax: _softmax,
    ops.Sub: _of_two("SUB", "SubOptions"),
    ops.Transpose: emit_transpose,
    ops.TransposeConv2D: _transpose_conv_2d,
}

COMPACT_EMITTERS: dict[type[ops.IntegerOp], Emitter] = {ops.Lookup: emit_lookup_compact}
"""What TensorFlow Lite Micro runs in less memory, and LiteRT does not."""


def _activation(tensor: IntegerTensor) -> FileTensor:
    if not tensor.on_grid:
        return FileTensor(tensor.name, tensor.shape, tensor.dtype)
    return FileTensor(
        name=tensor.name,
        shape=tensor.shape,
        dtype="int8",
        scale=tensor.qparams.scale.reshape(1),
        zero_point=tensor.qparams.zero_point,
        resizable=True,
    )


def _float_tensor(graph: IntegerGraph, name: str, float_name: str) -> FileTensor:
    return FileTensor(float_name, graph.tensors[name].shape, "float32", resizable=True)


_Windowed = (
    ops.Conv2D | ops.DepthwiseConv2D | ops.TransposeConv2D | ops.MaxPool2D | ops.AveragePool2D
)


def _window_fields(op: _Windowed) -> dict[str, Any]:
    height, width = op.strides
    return {"padding": op.padding.upper(), "strideH": height, "strideW": width}


def _fused(op: ops.LinearOp | ops.ArithmeticOp, graph: IntegerGraph) -> dict[str, Any]:
    """The clamp; a RELU6 far above the end of int8 is a RELU: runtimes refuse 6 beyond int32."""
    scale = float(graph.tensors[op.output].qparams.scale)
    beyond = op.activation == "relu6" and scale * _LARGEST_SIX < 6.0
    return {"fusedActivationFunction": _FUSED["relu" if beyond else op.activation]}


def _dilation(op: ops.Conv2D | ops.DepthwiseConv2D) -> dict[str, Any]:
    height, width = op.dilation
    return {"dilationHFactor": height, "dilationWFactor": width}
