"""Runs `.tflite` bytes in the real runtimes, which are imported inside the functions."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_export.file import litert_process
from tflite_export.file.file_model import FileModel

Arrays = dict[str, npt.NDArray[Any]]
LiteRT = Callable[
    [bytes, litert_process.Indexed, list[int], int, bool], dict[int, npt.NDArray[Any]]
]
"""See `litert_process.run`."""
_ARENA_BASE = 1 << 20


def run_litert(
    data: bytes, model: FileModel, inputs: Mapping[str, npt.NDArray[Any]], reference: bool
) -> Arrays:
    """Runs LiteRT with its reference kernels, or with XNNPACK, its default.

    Args:
        data: the file.
        model: the content of the file.
        inputs: arrays of one batch size, by the names that callers use. A file whose batch is
            fixed runs the examples one by one.
        reference: use the reference kernels instead of XNNPACK.

    Returns:
        Arrays by tensor name: every activation with reference kernels, the outputs with XNNPACK.

    Raises:
        ImportError: ai-edge-litert is not installed.
        RuntimeError: the runtime refuses the file.
    """
    litert()
    return by_indices(litert_process.run, data, model, inputs, reference)


def litert() -> Any:
    """The module of LiteRT's interpreter. Raises an `ImportError` if it is not installed."""
    try:
        return importlib.import_module(litert_process.MODULES[0])
    except ImportError as error:
        raise ImportError(
            'Running LiteRT needs ai-edge-litert: pip install "keras_qat[export]"'
        ) from error


def by_indices(
    runs: LiteRT,
    data: bytes,
    model: FileModel,
    inputs: Mapping[str, npt.NDArray[Any]],
    reference: bool,
) -> Arrays:
    """Runs LiteRT, which knows tensors by their index, here or elsewhere; see `run_litert`."""
    names, index_of = list(model.tensors), {name: i for i, name in enumerate(model.tensors)}
    wanted = _activations(model) if reference else list(model.outputs.values())
    fed = {index_of[tensor]: inputs[name] for name, tensor in model.inputs.items()}
    open_batch = all(model.tensors[tensor].resizable for tensor in model.inputs.values())
    batch = next(iter(inputs.values())).shape[0] if open_batch else 1
    found = runs(data, fed, [index_of[name] for name in wanted], batch, reference)
    return {names[index]: array for index, array in found.items()}


def run_tflm(
    data: bytes,
    model: FileModel,
    inputs: Mapping[str, npt.NDArray[Any]],
    every_tensor: bool = True,
) -> Arrays:
    """Runs TensorFlow Lite Micro, example by example.

    Args:
        data: the file.
        model: the content of the file.
        inputs: arrays of one batch size, by the names that callers use.
        every_tensor: return every activation, not the outputs alone.

    Returns:
        Arrays by tensor name.

    Raises:
        ImportError: tflite_micro is not installed.
        RuntimeError: the runtime refuses the file.
    """
    runtime = _tflm()
    interpreter = runtime.Interpreter.from_bytes(
        data,
        arena_size=_arena_size(data, model),
        intrepreter_config=runtime.InterpreterConfig.kPreserveAllTensors,
    )
    index_of = {name: index for index, name in enumerate(model.tensors)}
    wanted = _activations(model) if every_tensor else list(model.outputs.values())
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in wanted}
    for example in range(next(iter(inputs.values())).shape[0]):
        for position, name in enumerate(model.inputs):
            interpreter.set_input(inputs[name][example : example + 1], position)
        interpreter.invoke()
        for name, part in parts.items():
            part.append(np.array(interpreter.GetTensor(index_of[name], 0)["tensor_data"]))
    return {name: np.concatenate(part) for name, part in parts.items()}


def measure_arena(data: bytes, model: FileModel) -> int:
    """The bytes of the arena that TensorFlow Lite Micro takes on this machine.

    The runtime prints this number to the standard error of the process, which is captured.

    Raises:
        ImportError: tflite_micro is not installed.
        RuntimeError: the runtime refuses the file, or does not state its arena.
    """
    runtime = _tflm()
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=_arena_size(data, model))
    said = standard_error(interpreter.print_allocations)
    total = re.search(r"Arena allocation total (\d+) bytes", said)
    if total is None:
        raise RuntimeError(f"TensorFlow Lite Micro did not state its arena. Received: {said!r}")
    return int(total.group(1))


def _tflm() -> Any:
    try:
        from tflite_micro import runtime
    except ImportError as error:
        raise ImportError(
            'Running TensorFlow Lite Micro needs tflite_micro: pip install "keras_qat[tflm]"'
        ) from error
    return runtime


def standard_error(call: Callable[[], None]) -> str:
    """Runs a call and returns what it writes to the standard error, native code included."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            call()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        caught.seek(0)
        return caught.read().decode(errors="replace")


def _activations(model: FileModel) -> list[str]:
    return [name for name, tensor in model.tensors.items() if tensor.data is None]


def _arena_size(data: bytes, model: FileModel) -> int:
    """Room for every tensor at once and the kernels' own structures."""
    elements = sum(int(np.prod(tensor.shape)) for tensor in model.tensors.values())
    return _ARENA_BASE + 8 * elements + 4 * len(data)
