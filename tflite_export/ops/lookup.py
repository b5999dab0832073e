"""LOOKUP, a table of 256 values: codes become indices from 0 to 255, and a GATHER reads the table.

No kernel reads a file's table by int8 codes, and GATHER refuses negative indices. So the codes
become int32 indices first.
"""

from __future__ import annotations

import numpy as np

from keras_qat.integer import IntegerGraph, ops
from keras_qat.integer.qparams import INT8_MIN
from tflite_export.errors import VerificationError
from tflite_export.file.file_model import FileOperator, FileTensor
from tflite_export.ops.arithmetic import ADD_OPERATOR
from tflite_export.ops.boundary import QUANTIZE_OPERATOR
from tflite_export.ops.emission import Emission
from tflite_export.ops.op_export import EVERY_TARGET, NO_WEIGHTS, OpExport
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch
from tflite_export.ops.reading import FileReading
from tflite_export.targets import Target


def _emit(op: ops.Lookup, graph: IntegerGraph) -> Emission:
    """Emits CAST to int32, ADD 128 and GATHER, which every runtime has."""
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


def _emit_compact(op: ops.Lookup, graph: IntegerGraph) -> Emission:
    """Emits QUANTIZE to int32, with a zero point 128 higher, and GATHER: one wide tensor less."""
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


def _check(op: ops.Lookup, graph: IntegerGraph, target: Target) -> None:
    """Refuses nothing: a target runs every lookup.

    `IntegerGraph` has checked that the entries of the table are on the grid of the output.
    """


def _check_table(op: ops.Lookup, legal: ops.Lookup, reading: FileReading) -> None:
    if op.output in reading.native:
        return  # its operator has no table, and was run on every code
    stored = reading.tensor(reading.writer(op.output).inputs[0])
    if stored.data is None or not np.array_equal(stored.data, op.table):
        raise VerificationError(f"The file's table of {op.output!r} differs from the graph's.")


GATHER_OPERATOR = OperatorType(
    "GATHER",
    MicroKernel(resolver="AddGather", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)
ELU_OPERATOR = OperatorType(
    "ELU",
    MicroKernel(resolver="AddElu", structure_bytes=232, channel_bytes=0, scratch=no_scratch),
)
LOGISTIC_OPERATOR = OperatorType(
    "LOGISTIC",
    MicroKernel(resolver="AddLogistic", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)
TANH_OPERATOR = OperatorType(
    "TANH",
    MicroKernel(resolver="AddTanh", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)
CAST_OPERATOR = OperatorType(
    "CAST",
    MicroKernel(resolver="AddCast", structure_bytes=0, channel_bytes=0, scratch=no_scratch),
)
GELU_OPERATOR = OperatorType("GELU", micro=None)

LOOKUP = OpExport(
    emit=_emit,
    emit_compact=_emit_compact,
    check=_check,
    check_constants=_check_table,
    operators=(
        CAST_OPERATOR,
        ADD_OPERATOR,
        QUANTIZE_OPERATOR,
        GATHER_OPERATOR,
        ELU_OPERATOR,
        GELU_OPERATOR,
        LOGISTIC_OPERATOR,
        TANH_OPERATOR,
    ),
    targets=EVERY_TARGET,
    weight_storages=NO_WEIGHTS,
    moves_codes=False,
)
