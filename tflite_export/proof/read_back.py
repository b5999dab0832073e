"""Proves from the bytes alone that a file holds the learned integers and scales."""

from __future__ import annotations

import numpy as np

from keras_qat.integer import IntegerGraph, ops
from tflite_export.errors import VerificationError
from tflite_export.file.file_model import FileModel
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.ops.boundary import UINT8_SHIFT
from tflite_export.ops.float_part import emit_float_part
from tflite_export.ops.reading import FileReading
from tflite_export.ops.table import export_of


def check_file(learned: IntegerGraph, stored_graph: StoredGraph, file: FileModel) -> None:
    """Compares a file that was read back with the learned and the legalized graph.

    Raises:
        VerificationError: a weight that is not the learned integer times a power of two, or a
            grid, bias or table that is not the graph's.
    """
    legal = stored_graph.graph
    reading = FileReading(file, legal, stored_graph.native)
    _check_float_tensors(legal, file)
    _check_ends(legal, file)
    for name, tensor in legal.tensors.items():
        stored = reading.tensor(name)
        grid = tensor.qparams
        scale = grid.scale.reshape(1) if tensor.on_grid else ()
        same = np.array_equal(stored.scale, scale) and (
            stored.zero_point == grid.zero_point and stored.shape == tensor.shape
        )
        if not same or stored.dtype != tensor.dtype:
            raise VerificationError(f"The file states another grid or shape for tensor {name!r}.")
    for op in legal.ops:
        reading.writer(op.output)
    for op in learned.ops:
        linear = isinstance(op, ops.LinearOp)
        stated = stored_graph.linear_op(op.output) if linear else op
        export_of(op).check_constants(op, stated, reading)


def _check_ends(legal: IntegerGraph, file: FileModel) -> None:
    """Requires that the file's ends are the graph's, and that uint8 has the grid plus 128."""
    for stated, found in ((legal.inputs, file.inputs), (legal.outputs, file.outputs)):
        if tuple(dict.fromkeys(stated)) != tuple(found):
            raise VerificationError(
                f"The file has other inputs or outputs than {list(stated)}. Received: {list(found)}"
            )
        for name, end in found.items():
            tensor, stored = legal.tensors[name], file.tensors[end]
            grid = tensor.qparams
            shifted = stored.zero_point == grid.zero_point + UINT8_SHIFT
            same = np.array_equal(stored.scale, grid.scale.reshape(1))
            if stored.dtype == "uint8" and not (same and shifted and tensor.on_grid):
                raise VerificationError(f"The file states another grid for the end {end!r}.")


def _check_float_tensors(legal: IntegerGraph, file: FileModel) -> None:
    """Requires that only inputs, outputs and tensors of float parts are float32."""
    known = {*file.inputs.values(), *file.outputs.values()}
    for op in legal.ops:
        if isinstance(op, ops.FloatPart):
            known |= {op.output, *(each.name for each in emit_float_part(op, legal).constants)}
    for name, stored in file.tensors.items():
        if stored.dtype == "float32" and name not in known:
            raise VerificationError(f"The file computes in float32 inside, at tensor {name!r}.")
