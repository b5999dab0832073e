"""Operators that compute a table on their own, where a target's runtimes agree on every entry.

They are faster than a GATHER and need no wide tensor. Which tables they compute is found by running
them: their arithmetic is floating-point functions of the C library in one place and fixed-point
numbers in another.
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
        code, version, options, fields: as in `FileOperator`.
        targets: where it is worth its place.
        output: the one output grid that it accepts; `None` for any.
    """

    code: str
    version: int
    targets: tuple[str, ...]
    options: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    output: QuantParams | None = None

    def reading(self, source: str, output: str) -> FileOperator:
        """The operator between two tensors."""
        return FileOperator(
            self.code, self.version, (source,), (output,), self.options, self.fields
        )


_PROBABILITIES = QuantParams(np.array(1 / 256, np.float32), zero_point=INT8_MIN)
_SIGNED_UNIT = QuantParams(np.array(1 / 128, np.float32))

# Not here: LEAKY_RELU and HARD_SWISH round on the way, so most of their tables differ from that of
# the function, and in LiteRT HARD_SWISH is slower than a GATHER. Neither ELU in LiteRT, whose
# reference kernels have none, nor GELU in TensorFlow Lite Micro, which has none.
NATIVE_FUNCTIONS = (
    NativeFunction("GELU", 2, ("litert",), "GeluOptions", {"approximate": False}),
    NativeFunction("GELU", 2, ("litert",), "GeluOptions", {"approximate": True}),
    NativeFunction("ELU", 1, ("tflm",)),
    NativeFunction("LOGISTIC", 2, ("litert", "tflm"), output=_PROBABILITIES),
    NativeFunction("TANH", 2, ("litert", "tflm"), output=_SIGNED_UNIT),
)


def native_operators(graph: IntegerGraph, target: Target) -> dict[str, FileOperator]:
    """For every table that an operator of the target computes: that operator, by its output.

    Without the target's runtime there are none.
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
        if fits and target.name in function.targets:
            values = [_table(function, x, y, profile) for profile in target.profiles]
            if all(
                each is not None and np.array_equal(each[reachable], entries) for each in values
            ):
                return function
    return None


def _table(
    function: NativeFunction, x: QuantParams, y: QuantParams, profile: str
) -> npt.NDArray[np.int8] | None:
    """What the operator makes of every code in one runtime; `None` without the runtime."""
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
