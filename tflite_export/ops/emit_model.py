"""`emit_model`: states a whole file from a graph, op by op."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from keras_qat.integer import IntegerGraph, IntegerTensor, ops
from tflite_export.errors import ExportError
from tflite_export.file import lookup_table
from tflite_export.file.file_model import FileModel, FileTensor, IoDtype
from tflite_export.file.stored_graph import StoredGraph, WeightStorage
from tflite_export.ops.emission import Emission, file_operator
from tflite_export.ops.table import export_of

DESCRIPTION = "Quantization-aware trained integer network, written by keras_qat."


def emit_model(stored: StoredGraph, io_dtype: IoDtype = "int8", compact: bool = False) -> FileModel:
    """The whole file for a graph. Its int8 tensors keep the graph's names.

    Args:
        stored: a legalized graph.
        io_dtype: `"int8"`, or `"float32"` for a QUANTIZE behind every input and a DEQUANTIZE
            before every output. An input or output on no grid stays as it is.
        compact: see `FileModel`.

    Raises:
        ExportError: an op type that is not in `OP_EXPORTS`, or tensors that share a name.
    """
    graph = stored.graph
    tensors = [_activation(tensor) for tensor in graph.tensors.values()]
    operators = []
    for op in graph.ops:
        native = stored.native.get(op.output)
        emission = Emission((), native) if native else _emit(op, graph, compact)
        if op.output in stored.storage:
            emission = _with_storage(emission, stored.storage[op.output])
        tensors.extend(_without_bias_scale(emission.constants) if compact else emission.constants)
        operators.extend([*emission.before, emission.operator])
    inputs = {name: name for name in graph.inputs}
    outputs = {name: name for name in graph.outputs}
    if io_dtype == "float32":
        entering, leaving = (
            {name: f"{name}/float32_{end}" for name in names if graph.tensors[name].on_grid}
            for names, end in ((graph.inputs, "input"), (graph.outputs, "output"))
        )
        inputs |= entering
        outputs |= leaving
        wrapped = [*entering.items(), *leaving.items()]
        tensors.extend(_float_tensor(graph, *pair) for pair in wrapped)
        operators = [
            *(file_operator("QUANTIZE", 1, (x,), name) for name, x in entering.items()),
            *operators,
            *(file_operator("DEQUANTIZE", 2, (name,), y) for name, y in leaving.items()),
        ]
    if not all(export_of(op).any_batch for op in graph.ops):
        tensors = [dataclasses.replace(tensor, resizable=False) for tensor in tensors]
    return FileModel(
        description=DESCRIPTION,
        tensors=_by_unique_name(tensors),
        operators=tuple(operators),
        inputs=inputs,
        outputs=outputs,
        compact=compact,
    )


def _emit(op: ops.IntegerOp, graph: IntegerGraph, compact: bool) -> Emission:
    export = export_of(op)
    emit = export.emit_compact if compact and export.emit_compact else export.emit
    return emit(op, graph)


def _with_storage(emission: Emission, storage: WeightStorage) -> Emission:
    """The emission of a linear op with its weights stored in another way."""
    weight, *others = emission.constants
    if storage == "int4":
        narrow = dataclasses.replace(weight, dtype="int4")
        return dataclasses.replace(emission, constants=(narrow, *others))
    if storage == "lut" and weight.data is not None:
        # The decoder reads a single scale as a scale along the first axis.
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
    """Removes the scales of an int32 bias that has several, because no kernel reads them.

    A single scale stays: FULLY_CONNECTED with one output compares it with its accumulator's scale.
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
            f"Tensors of the file would share a name. Rename the layer. Received: {twice}"
        )
    return named


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
