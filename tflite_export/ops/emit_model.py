"""`emit_model`: states a whole file from a graph, op by op."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from keras_qat.integer import IntegerGraph, IntegerTensor, ops
from keras_qat.integer.storage_sizes import PACKED_BITS
from tflite_export.errors import ExportError
from tflite_export.file import lookup_table
from tflite_export.file.file_model import FileModel, FileTensor
from tflite_export.file.stored_graph import StoredGraph, WeightStorage
from tflite_export.ops.boundary import IoDtypes, ends_of, io_dtypes
from tflite_export.ops.emission import Emission, file_operator
from tflite_export.ops.table import export_of

DESCRIPTION = "Quantization-aware trained integer network, written by keras_qat."


def emit_model(
    stored: StoredGraph, io_dtype: IoDtypes = "int8", compact: bool = False
) -> FileModel:
    """The whole file for a graph. Its int8 tensors keep the graph's names.

    Args:
        stored: a legalized graph.
        io_dtype: the dtype of inputs and outputs, or dtypes by name; see `io_dtypes`. An input or
            output on no grid stays as it is.
        compact: see `FileModel`.

    Raises:
        ExportError: an op type that is not in `OP_EXPORTS`, or tensors that share a name.
        ValueError: see `io_dtypes`.
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
    ends = ends_of(graph, io_dtypes(graph, io_dtype))
    tensors.extend(ends.tensors)
    if not all(export_of(op).any_batch for op in graph.ops):
        tensors = [dataclasses.replace(tensor, resizable=False) for tensor in tensors]
    return FileModel(
        description=DESCRIPTION,
        tensors=_by_unique_name(tensors),
        operators=(*ends.before, *operators, *ends.after),
        inputs=ends.inputs,
        outputs=ends.outputs,
        compact=compact,
    )


def _emit(op: ops.IntegerOp, graph: IntegerGraph, compact: bool) -> Emission:
    export = export_of(op)
    emit = export.emit_compact if compact and export.emit_compact else export.emit
    return emit(op, graph)


def _with_storage(emission: Emission, storage: WeightStorage) -> Emission:
    """The emission of a linear op with its weights stored in another way."""
    weight, *others = emission.constants
    if storage in PACKED_BITS:
        narrow = dataclasses.replace(weight, dtype=storage)
        return dataclasses.replace(emission, constants=(narrow, *others))
    if storage == "lut" and weight.data is not None:
        # The decoder takes one table for each scale, and a single scale along the first axis.
        axis = weight.axis if weight.scale.size > 1 else 0
        parts = lookup_table.encode(weight.data, axis if weight.scale.size > 1 else None)
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

    A single scale stays: FULLY_CONNECTED compares it with its accumulator's scale.
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
