"""Operators that compute a lookup without its table, if the runtimes agree on every entry.

They are faster than a GATHER and need no wide tensor. They are run to find out which tables they
compute, because some use floating-point functions of the C library and others fixed point.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, QuantParams, ops
from keras_qat.integer.qparams import INT8_MAX, INT8_MIN
from tflite_export.file.file_model import FileModel, FileOperator, FileTensor
from tflite_export.file.runtimes import run_litert, run_tflm
from tflite_export.file.writer import write_model
from tflite_export.targets import Target


@dataclasses.dataclass(frozen=True, eq=False)
class NativeFunction:
    """An operator that computes one function.

    Attributes:
        code, version, options, fields: see `FileOperator`.
        targets: names of the targets where it is used.
        output: the one output grid that it accepts; `None` for any.
    """

    code: str
    version: int
    targets: tuple[str, ...]
    options: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    output: QuantParams | None = None

    def reading(self, source: str, output: str) -> FileOperator:
        """The operator that computes `output` from `source`."""
        return FileOperator(
            self.code, self.version, (source,), (output,), self.options, self.fields
        )


_PROBABILITIES = QuantParams(np.array(1 / 256, np.float32), zero_point=INT8_MIN)
_SIGNED_UNIT = QuantParams(np.array(1 / 128, np.float32))

# LEAKY_RELU and HARD_SWISH are left out: they round on the way, so most of their tables differ from
# the table of the function. HARD_SWISH in LiteRT is also slower than a GATHER. LiteRT's reference
# kernels have no ELU, and TensorFlow Lite Micro has no GELU.
NATIVE_FUNCTIONS = (
    NativeFunction("GELU", 2, ("litert",), "GeluOptions", {"approximate": False}),
    NativeFunction("GELU", 2, ("litert",), "GeluOptions", {"approximate": True}),
    NativeFunction("ELU", 1, ("tflm",)),
    NativeFunction("LOGISTIC", 2, ("litert", "tflm"), output=_PROBABILITIES),
    NativeFunction("TANH", 2, ("litert", "tflm"), output=_SIGNED_UNIT),
)


def native_operators(graph: IntegerGraph, target: Target) -> dict[str, FileOperator]:
    """The operators of the target that compute a lookup of the graph, by the lookup's output.

    There are none if a runtime of the target is not installed.
    """
    found = {}
    for op in graph.ops:
        if isinstance(op, ops.Lookup):
            (source,) = op.inputs
            grids = (graph.tensors[name].qparams for name in (source, op.output))
            function = _native_function(op.table.tobytes(), *grids, target)
            if function is not None:
                found[op.output] = function.reading(source, op.output)
    return found


@functools.lru_cache(maxsize=256)
def _native_function(
    table: bytes, x: QuantParams, y: QuantParams, target: Target
) -> NativeFunction | None:
    reachable = slice(x.qmin - INT8_MIN, x.qmax - INT8_MIN + 1)
    entries = np.frombuffer(table, np.int8)[reachable]
    for function in NATIVE_FUNCTIONS:
        fits = function.output is None or function.output == y
        if fits and target.family in function.targets:
            values = [_table(function, x, y, profile) for profile in target.profiles]
            if all(
                each is not None and np.array_equal(each[reachable], entries) for each in values
            ):
                return function
    return None


def _table(
    function: NativeFunction, x: QuantParams, y: QuantParams, profile: str
) -> npt.NDArray[np.int8] | None:
    """The operator's output for every code in one runtime; `None` if it is not installed."""
    codes = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int8).reshape(1, -1)
    tensors = {
        name: FileTensor(name, codes.shape, "int8", grid.scale.reshape(1), grid.zero_point)
        for name, grid in (("x", x), ("y", y))
    }
    operator = function.reading("x", "y")
    file = FileModel("one operator", tensors, (operator,), {"x": "x"}, {"y": "y"})
    data = write_model(file)
    try:
        if profile == "tflm":
            return run_tflm(data, file, {"x": codes})["y"].reshape(-1)
        return run_litert(data, file, {"x": codes}, profile == "litert_ref")["y"].reshape(-1)
    except ImportError:
        return None
