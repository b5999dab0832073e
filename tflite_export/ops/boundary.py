"""The ends of a file: its inputs and outputs as int8, uint8 or float32, and what converts them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, IntegerTensor
from tflite_export.file.file_model import IO_DTYPES, FileOperator, FileTensor, IoDtype
from tflite_export.ops.emission import file_operator
from tflite_export.ops.operator_type import MicroKernel, OperatorType, no_scratch

QUANTIZE_OPERATOR = OperatorType(
    "QUANTIZE",
    MicroKernel(resolver="AddQuantize", structure_bytes=24, channel_bytes=0, scratch=no_scratch),
)
DEQUANTIZE_OPERATOR = OperatorType(
    "DEQUANTIZE",
    MicroKernel(resolver="AddDequantize", structure_bytes=8, channel_bytes=0, scratch=no_scratch),
)
UINT8_SHIFT = 128
"""A code in uint8 is the code in int8 plus this, and so is the zero point."""

IoDtypes = str | Mapping[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Ends:
    """What the ends of a file add to it.

    Attributes:
        tensors: the tensors that callers set and read, where they are not int8.
        before: the operators from inputs to int8.
        after: the operators from int8 to outputs.
        inputs: the tensor of each input, by its name.
        outputs: the tensor of each output, by its name.
    """

    tensors: tuple[FileTensor, ...]
    before: tuple[FileOperator, ...]
    after: tuple[FileOperator, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def io_dtypes(graph: IntegerGraph, io_dtype: IoDtypes) -> dict[str, IoDtype]:
    """The dtype of every input and output of the graph that is on a grid, by its name.

    Args:
        graph: the graph.
        io_dtype: one dtype for all, or dtypes by name; a name that is not listed is int8.

    Raises:
        ValueError: an unknown dtype or name, or another dtype for an end on no grid.
    """
    names = list(dict.fromkeys((*graph.inputs, *graph.outputs)))
    given = dict(io_dtype) if isinstance(io_dtype, Mapping) else dict.fromkeys(names, io_dtype)
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ValueError(
            f"io_dtype: the inputs and outputs are {names}. Received: io_dtype for {unknown}"
        )
    if isinstance(io_dtype, Mapping):
        for name, dtype in given.items():
            if not graph.tensors[name].on_grid and dtype != graph.tensors[name].dtype:
                raise ValueError(
                    f"io_dtype: {name!r} is on no grid, and stays {graph.tensors[name].dtype}. "
                    f"Leave it out. Received: {dtype!r}"
                )
    on_grid = [name for name in names if graph.tensors[name].on_grid]
    return {name: check_io_dtype(given.get(name, "int8")) for name in on_grid}


def dtypes_in_words(dtypes: Mapping[str, IoDtype]) -> str:
    """The dtypes of inputs and outputs, for a report; ends on no grid alone are float32."""
    found = list(dict.fromkeys(dtypes.values()))
    if len(found) < 2:
        return found[0] if found else "float32"
    return ", ".join(f"{dtype} {name}" for name, dtype in dtypes.items())


def check_io_dtype(dtype: str) -> IoDtype:
    """The dtype itself. Raises a `ValueError` if it is unknown."""
    for known in IO_DTYPES:
        if dtype == known:
            return known
    raise ValueError(
        f"io_dtype must be one of {', '.join(map(repr, IO_DTYPES))}, or a dict of these by the "
        f"names of inputs and outputs. Received: {dtype!r}"
    )


def ends_of(graph: IntegerGraph, dtypes: Mapping[str, IoDtype]) -> Ends:
    """The ends of a file for the graph.

    Args:
        graph: the graph.
        dtypes: see `io_dtypes`. An end that is not listed is as the graph states it.
    """
    tensors, before, after = [], [], []
    inputs = {name: name for name in graph.inputs}
    outputs = {name: name for name in graph.outputs}
    for ends, side in ((inputs, "input"), (outputs, "output")):
        for name in ends:
            dtype = dtypes.get(name, "int8")
            if dtype == "int8":
                continue
            end = _end_tensor(graph.tensors[name], f"{name}/{dtype}_{side}", dtype)
            tensors.append(end)
            ends[name] = end.name
            if side == "input":
                before.append(file_operator("QUANTIZE", 1, (end.name,), name))
            elif dtype == "uint8":
                after.append(file_operator("QUANTIZE", 1, (name,), end.name))
            else:
                after.append(file_operator("DEQUANTIZE", 2, (name,), end.name))
    return Ends(tuple(tensors), tuple(before), tuple(after), inputs, outputs)


def at_the_end(tensor: IntegerTensor, held: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """What the graph holds as an input or an output of a file, which has this dtype.

    >>> from keras_qat.integer import QuantParams
    >>> tensor = IntegerTensor("x", (1, 2), QuantParams(np.float32(0.5)))
    >>> at_the_end(tensor, np.int8([[-128, 3]]), "uint8").tolist()
    [[0, 131]]
    """
    if not tensor.on_grid or dtype == "int8":
        return held
    if dtype == "uint8":
        return (held.astype(np.int16) + UINT8_SHIFT).astype(np.uint8)
    return tensor.dequantize(held)


def _end_tensor(tensor: IntegerTensor, name: str, dtype: IoDtype) -> FileTensor:
    if dtype == "float32":
        return FileTensor(name, tensor.shape, dtype, resizable=True)
    return FileTensor(
        name,
        tensor.shape,
        dtype,
        scale=tensor.qparams.scale.reshape(1),
        zero_point=tensor.qparams.zero_point + UINT8_SHIFT,
        resizable=True,
    )
