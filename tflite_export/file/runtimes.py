"""Runs `.tflite` bytes in the real runtimes, which are imported inside the functions."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_export.file.file_model import FileModel

Arrays = dict[str, npt.NDArray[Any]]
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
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise ImportError(
            'Running LiteRT needs ai-edge-litert: pip install "keras_qat[export]"'
        ) from error
    resolver = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    interpreter = Interpreter(
        model_content=data,
        experimental_op_resolver_type=resolver,
        experimental_preserve_all_tensors=reference,
        num_threads=1,
    )
    index_of = {name: index for index, name in enumerate(model.tensors)}
    wanted = _activations(model) if reference else list(model.outputs.values())
    examples = next(iter(inputs.values())).shape[0]
    open_batch = all(model.tensors[tensor].resizable for tensor in model.inputs.values())
    batch = examples if open_batch else 1
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in wanted}
    for start in range(0, examples, batch):
        part = {name: array[start : start + batch] for name, array in inputs.items()}
        for name, tensor in model.inputs.items():
            interpreter.resize_tensor_input(index_of[tensor], part[name].shape)
        interpreter.allocate_tensors()
        for name, tensor in model.inputs.items():
            interpreter.set_tensor(index_of[tensor], part[name])
        interpreter.invoke()
        for name, found in parts.items():
            found.append(np.array(interpreter.get_tensor(index_of[name])))
    return {name: np.concatenate(found) for name, found in parts.items()}


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
