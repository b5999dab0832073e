"""Proves a `.tflite` file: its bytes against the learned graph, the runtimes against NumPy."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, ops, run
from keras_qat.integer.fixed_point import get_profile, refusing_to_wrap
from tflite_export.errors import VerificationError
from tflite_export.file.file_model import FileModel
from tflite_export.file.other_runtime import OtherRuntime
from tflite_export.file.runtimes import Arrays, run_litert, run_tflm
from tflite_export.file.stored_graph import storages_of
from tflite_export.file.writer import read_model, write_model
from tflite_export.legal.legality import runnable_profiles
from tflite_export.legal.legalize import legalize
from tflite_export.ops.boundary import at_the_end
from tflite_export.proof.all_codes import prove_every_code
from tflite_export.proof.comparison import TensorDifference, merge, tensor_difference
from tflite_export.proof.extremes import extreme_inputs, prove_extremes
from tflite_export.proof.float_difference import (
    FLOAT_TOLERANCE,
    FloatDifference,
    float_difference,
    merge_floats,
)
from tflite_export.proof.read_back import check_file
from tflite_export.targets import Target, get_target

_CHUNK = 64
_Runtime = tuple[str, OtherRuntime | None]
"""A profile, and the other environment that runs it; `None` for this one."""
FLOAT_PART_FLIPS = 1e-3
"""Share of a float part's output elements that may be one step off.

The interpreter runs the part in the same runtime, with the same kernels, but alone. Inside a larger
file the runtime may choose other kernels, which sum in another order. A sum that differs by 2**-20
of the grid's range rounds to another code if it is as near to one of the 256 ties in that range.
That is one element in two thousand, by one step. None was seen on x86-64.
"""
_RUNTIMES = {
    "litert_ref": "LiteRT reference kernels",
    "xnnpack-x86": "LiteRT default (XNNPACK)",
    "xnnpack-arm64": "LiteRT default (XNNPACK on arm64)",
    "tflm": "TensorFlow Lite Micro",
}


@dataclasses.dataclass(frozen=True)
class RuntimeVerification:
    """One runtime against the interpreter with that runtime's rounding.

    Attributes:
        profile: the rounding profile.
        runtime: name of the runtime, for the report.
        samples: how many examples ran.
        tensors: the differences of tensors on grids, in the order of the graph.
        float_tensors: the differences of tensors on no grid, in the order of the graph.
    """

    profile: str
    runtime: str
    samples: int
    tensors: tuple[TensorDifference, ...]
    float_tensors: tuple[FloatDifference, ...] = ()

    @property
    def differing(self) -> int:
        """How many elements differ."""
        return sum(tensor.differing for tensor in self.tensors)

    @property
    def elements(self) -> int:
        """How many elements were compared."""
        return sum(tensor.elements for tensor in self.tensors)


def verify(
    graph: IntegerGraph,
    model_bytes: bytes,
    target: str | Target,
    samples: Mapping[str, npt.NDArray[np.int8]],
    weight_storage: str | None = None,
    *,
    runtimes: Sequence[OtherRuntime] = (),
    portable: bool | None = None,
) -> tuple[RuntimeVerification, ...]:
    """Proves that the file holds the learned graph and that the target's runtimes compute it.

    The file is read back through the raw schema. Its weights over `2**k` must be the learned
    integers, and its scales, zero points and biases must equal the graph's. Then every runtime of
    the target runs the samples, and every tensor is compared with the interpreter, without
    tolerance. Without float parts it also runs at the ends of its inputs. Elementwise operators
    also run alone, on every code or pair of codes, and all that sum run alone where each of their
    accumulators is lowest and highest. There are two exceptions. The output of a float part may be
    one step off in `FLOAT_PART_FLIPS` of its elements. If it is on no grid, it may differ by
    `FLOAT_TOLERANCE` of its largest value. Behind both, the interpreter continues from the
    runtime's own numbers.

    Args:
        graph: the learned graph, before any pass.
        model_bytes: the file.
        target: `"litert"`, `"tflm"` or `"ethos-u"`.
        samples: int8 inputs by name, shape (samples, ...).
        weight_storage: not read any more: the file says how it stores each weight.
        runtimes: LiteRT of other environments, which run the samples as well.
        portable: as the file was written, see `tflite_export.export`.

    Returns:
        One entry per runtime that runs the graph, without differences beyond these exceptions.

    Raises:
        VerificationError: the file or a runtime differs. For a runtime, the message names the first
            tensor and counts elements.
        ImportError: a runtime is not installed.
        RuntimeError: another environment does not start, or refuses the file.
        ValueError: LiteRT of other environments does not run files for the target.
    """
    target = get_target(target)
    if weight_storage is not None:
        message = "verify reads the storage of weights from the file. Leave weight_storage out."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
    if runtimes and not target.processors:
        raise ValueError(
            f"runtimes run LiteRT, which target {target.name!r} does not use. Leave them out, or "
            f"export for 'litert'. Received: {len(runtimes)} runtimes"
        )
    file = read_model(model_bytes)
    stored = legalize(graph, target, storages_of(file, graph), portable)
    check_file(graph, stored, file)
    here: dict[str, _Runtime] = {each: (each, None) for each in runnable_profiles(graph, target)}
    runs = here | {each.name: (each.profile, each) for each in runtimes}

    def require(
        name: str, graph: IntegerGraph, data: bytes, file: FileModel, samples: Any
    ) -> RuntimeVerification:
        result = verify_runtime(graph, data, file, runs[name][0], samples, runs[name][1])
        _require_equal(result, graph)
        return result

    results = []
    for name in runs:
        results.append(require(name, stored.graph, model_bytes, file, samples))
        if not _float_outputs(stored.graph):  # whose few flips have room in many samples alone
            require(name, stored.graph, model_bytes, file, extreme_inputs(stored.graph))
    prove_every_code(stored, tuple(runs), require)
    prove_extremes(stored, tuple(runs), require)
    return tuple(results)


def _require_equal(result: RuntimeVerification, graph: IntegerGraph) -> None:
    in_float = _float_outputs(graph)
    for tensor in result.tensors:
        near = tensor.max_difference <= 1 and tensor.rate <= FLOAT_PART_FLIPS
        if tensor.differing and not (tensor.name in in_float and near):
            raise VerificationError(
                f"{result.runtime} and the integer graph (profile {result.profile!r}) differ first "
                f"in tensor {tensor.name!r}: {tensor.differing} of {tensor.elements} elements, by "
                f"up to {tensor.max_difference}. The file was not accepted; "
                f"{_way_out(graph, tensor.name)}."
            )
    for found in result.float_tensors:
        if not found.relative <= FLOAT_TOLERANCE:
            raise VerificationError(
                f"{result.runtime}: {found.from_('the graph')}. Float sums in another order "
                f"explain {FLOAT_TOLERANCE:.2g} of the largest value. The file was not accepted; "
                "please report the graph (keras_qat.integer.save_graph)."
            )


def _way_out(graph: IntegerGraph, name: str) -> str:
    op = next((op for op in graph.ops if op.output == name), None)
    if isinstance(op, ops.Mul) and op.inputs[0] == op.inputs[1]:
        return (
            "XNNPACK squares by a table of its own, which rounds otherwise with these scales. "
            "Write keras.ops.square(x) instead of x * x: that becomes a table of 256 values, which "
            "every runtime reads alike"
        )
    return "please report the graph (keras_qat.integer.save_graph)"


def verify_runtime(
    graph: IntegerGraph,
    data: bytes,
    file: FileModel,
    profile: str,
    samples: Mapping[str, npt.NDArray[np.int8]],
    other: OtherRuntime | None = None,
) -> RuntimeVerification:
    """Runs the samples in one runtime and counts elements that differ from the interpreter.

    Args:
        graph: the graph exactly as the file states it.
        data: the file.
        file: the content of the file.
        profile: the rounding profile, which also names the runtime.
        samples: int8 inputs by name, shape (samples, ...).
        other: LiteRT of another environment, which runs the samples; `None` for this one.
    """
    count = next(iter(samples.values())).shape[0]
    in_float = [op.output for op in graph.ops if op.output_dtype == "float32"]
    chunks, float_chunks = [], []
    for start in range(0, count, _CHUNK):
        inputs = {name: array[start : start + _CHUNK] for name, array in samples.items()}
        actual = _run(profile, data, file, _runtime_inputs(graph, file, inputs), in_float, other)
        given = {name: actual[name] for name in _float_outputs(graph)}
        computed = _computed(graph, inputs, profile, given)
        expected = _expected(graph, file, computed, given)
        chunks.append(
            [
                tensor_difference(name, actual[name], expected[name])
                for name in expected
                if name in actual and name not in (*file.inputs.values(), *in_float)
            ]
        )
        float_chunks.append([float_difference(x, actual[x], computed[x]) for x in in_float])
    found, in_size = merge(chunks), merge_floats(float_chunks)
    name = _RUNTIMES[get_profile(profile).name] if other is None else other.name
    return RuntimeVerification(profile, name, count, found, in_size)


def _computed(graph: IntegerGraph, inputs: Arrays, profile: str, given: Arrays) -> Arrays:
    try:
        with refusing_to_wrap():
            return run(graph, inputs, profile, keep_all=True, given=given)
    except OverflowError as error:
        raise VerificationError(
            f"{error} (profile {profile!r}). The file was not accepted: it would answer with wrong "
            "numbers there. Train on with values of that layer nearer to those it was calibrated "
            "with, and please report the graph (keras_qat.integer.save_graph)."
        ) from error


def _run(
    profile: str,
    data: bytes,
    file: FileModel,
    inputs: Arrays,
    in_float: Sequence[str],
    other: OtherRuntime | None,
) -> Arrays:
    if profile == "tflm":
        return run_tflm(data, file, inputs)
    runs = run_litert if other is None else other.run
    if profile == "litert_ref":
        return runs(data, file, inputs, reference=True)
    outputs = runs(data, file, inputs, reference=False)
    opened = open_every_tensor(file, in_float)
    if set(opened.outputs.values()) <= set(outputs):
        return outputs
    return {**runs(write_model(opened), opened, inputs, reference=False), **outputs}


def open_every_tensor(file: FileModel, others: Sequence[str] = ()) -> FileModel:
    """The same network with every int8 tensor as an output, because XNNPACK keeps only outputs.

    Args:
        file: the network.
        others: names of other tensors to open.
    """
    names = [name for op in file.operators for name in op.outputs]
    opened = {name for name in names if file.tensors[name].dtype == "int8"}
    written = {name: name for name in names if name in opened.union(others)}
    return dataclasses.replace(file, outputs=written)


def _runtime_inputs(
    graph: IntegerGraph, file: FileModel, samples: Mapping[str, npt.NDArray[np.int8]]
) -> Arrays:
    """The arrays for the file's inputs: the integers, or the real numbers they stand for."""
    return {
        name: at_the_end(graph.tensors[name], samples[name], file.tensors[tensor].dtype)
        for name, tensor in file.inputs.items()
    }


def _float_outputs(graph: IntegerGraph) -> set[str]:
    """The names of the outputs of float parts."""
    return {op.output for op in graph.ops if isinstance(op, ops.FloatPart)}


def _expected(
    graph: IntegerGraph,
    file: FileModel,
    codes: Mapping[str, npt.NDArray[Any]],
    given: Mapping[str, npt.NDArray[Any]],
) -> Arrays:
    """The expected values of every int8 tensor, and of the outputs that the file converts."""
    converted = {
        tensor: at_the_end(
            graph.tensors[name], given.get(name, codes[name]), file.tensors[tensor].dtype
        )
        for name, tensor in file.outputs.items()
        if tensor != name
    }
    return {**codes, **converted}
