"""Layers in float: the operators of their own file, between DEQUANTIZE and QUANTIZE."""

from __future__ import annotations

import dataclasses

from keras_qat.integer import IntegerGraph, ops
from tflite_export.emission import Emission, file_operator
from tflite_export.errors import ExportError
from tflite_export.file_model import FileModel
from tflite_export.writer import read_model


def network_of(op: ops.FloatPart) -> FileModel:
    """What the file of a float part says.

    Raises:
        ExportError: a file with control flow, or none at all.
    """
    try:
        return read_model(op.file.tobytes())
    except ValueError as error:
        raise ExportError(
            f"The layers in float {', '.join(map(repr, op.layers))} cannot be written into the "
            "file: their operators are more than one list. A recurrent layer is a loop; make it "
            f"with unroll=True, replace it, or split the model there. {error}"
        ) from error


def emit_float_part(op: ops.FloatPart, graph: IntegerGraph) -> Emission:
    """A DEQUANTIZE for each input on a grid, the part's own operators, and a QUANTIZE."""
    part = network_of(op)
    names = {name: f"{inside(op)}{index}" for index, name in enumerate(part.tensors)}
    names[""] = ""  # of an input that an operator does without
    entries = dict(zip(part.inputs.values(), op.inputs, strict=True))
    raw = {entry: x for entry, x in entries.items() if not graph.tensors[x].on_grid}
    names |= raw
    tensors = tuple(
        dataclasses.replace(tensor, name=names[name])
        for name, tensor in part.tensors.items()
        if name not in raw
    )
    operators = tuple(
        dataclasses.replace(
            each,
            inputs=tuple(names[name] for name in each.inputs),
            outputs=tuple(names[name] for name in each.outputs),
        )
        for each in part.operators
    )
    dequantize = [
        file_operator("DEQUANTIZE", 2, (x,), names[entry])
        for entry, x in entries.items()
        if entry not in raw
    ]
    (result,) = part.outputs.values()
    quantize = file_operator("QUANTIZE", 1, (names[result],), op.output)
    return Emission(tensors, quantize, (*dequantize, *operators))


def inside(op: ops.FloatPart) -> str:
    """What the name of every tensor inside the part starts with."""
    return f"{op.output}/float/"
