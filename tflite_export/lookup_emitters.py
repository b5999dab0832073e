"""A table of 256 values as file operators: indices from 0 to 255, and a GATHER of the table.

Kernels read no table that a file brings for int8 codes directly, and GATHER refuses negative
indices, so the codes become int32 numbers from 0 first.
"""

from __future__ import annotations

import numpy as np

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.qparams import INT8_MIN
from tflite_export.emission import Emission
from tflite_export.file_model import FileOperator, FileTensor


def emit_lookup(op: ops.Lookup, graph: IntegerGraph) -> Emission:
    """CAST to int32, ADD 128, GATHER: every runtime has them."""
    (source,) = op.inputs
    shape = graph.tensors[op.output].shape
    wide = FileTensor(f"{op.output}/wide", shape, "int32", resizable=True)
    indices = FileTensor(f"{op.output}/indices", shape, "int32", resizable=True)
    offset = FileTensor(
        f"{op.output}/offset", (1,), "int32", data=np.full(1, -INT8_MIN, dtype=np.int32)
    )
    table = _table(op, graph)
    types = {"inDataType": "INT8", "outDataType": "INT32"}
    fields = {"fusedActivationFunction": "NONE"}
    cast = FileOperator("CAST", 3, (source,), (wide.name,), "CastOptions", types)
    operands = (wide.name, offset.name)
    add = FileOperator("ADD", 1, operands, (indices.name,), "AddOptions", fields)
    return Emission((table, offset, wide, indices), _gather(op, table, indices), (cast, add))


def emit_lookup_compact(op: ops.Lookup, graph: IntegerGraph) -> Emission:
    """QUANTIZE to int32 with a zero point that is 128 higher, GATHER: one wide tensor, not two."""
    (source,) = op.inputs
    tensor = graph.tensors[source]
    indices = FileTensor(
        f"{op.output}/indices",
        tensor.shape,
        "int32",
        scale=tensor.qparams.scale.reshape(1),
        zero_point=tensor.qparams.zero_point - INT8_MIN,
    )
    table = _table(op, graph)
    quantize = FileOperator("QUANTIZE", 2, (source,), (indices.name,))
    return Emission((table, indices), _gather(op, table, indices), (quantize,))


def _table(op: ops.Lookup, graph: IntegerGraph) -> FileTensor:
    grid = graph.tensors[op.output].qparams
    return FileTensor(
        name=f"{op.output}/table",
        shape=op.table.shape,
        dtype="int8",
        scale=grid.scale.reshape(1),
        zero_point=grid.zero_point,
        data=op.table,
    )


def _gather(op: ops.Lookup, table: FileTensor, indices: FileTensor) -> FileOperator:
    operands = (table.name, indices.name)
    return FileOperator("GATHER", 2, operands, (op.output,), "GatherOptions", {"axis": 0})
