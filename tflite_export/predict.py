"""`predict`: a `.tflite` file on real inputs, as an application runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


def predict(
    path: str | os.PathLike[str],
    inputs: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    *,
    batch_size: int = 256,
    threads: int = 1,
) -> Array | Arrays:
    """Runs a file in the LiteRT interpreter as it comes (XNNPACK) and returns real numbers.

    Inputs of an int8 file are put on its input grid (nearest integer, ties to even), its outputs
    come back as the real numbers they stand for.

    Args:
        path: the `.tflite` file.
        inputs: real numbers, shape (examples, ...); a dict by input name where there are several.
        batch_size: examples that run at once.
        threads: threads of the interpreter.

    Returns:
        float32, shape (examples, ...); a dict by output name where there are several.

    Raises:
        ImportError: ai-edge-litert is not installed.
        ValueError: inputs that are not those of the file, or a file that LiteRT cannot read.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "Running LiteRT needs ai-edge-litert: pip install 'keras_qat[export]'"
        ) from error
    interpreter = Interpreter(model_path=os.fspath(path), num_threads=threads)
    takes, gives = _ends(interpreter)
    arrays = _by_name(takes, inputs)
    count = len(next(iter(arrays.values())))
    parts: dict[str, list[Array]] = {name: [] for name in gives}
    for start in range(0, count, batch_size):
        batch = {name: array[start : start + batch_size] for name, array in arrays.items()}
        _invoke(interpreter, takes, batch)
        for name, detail in gives.items():
            parts[name].append(_dequantized(interpreter.get_tensor(detail["index"]), detail))
    outputs = {name: np.concatenate(values) for name, values in parts.items()}
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))


Details = dict[str, dict[str, Any]]


def _ends(interpreter: Any) -> tuple[Details, Details]:
    """Inputs and outputs by the names of the file's signature, or of its tensors without one."""
    for signature in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(signature)
        return runner.get_input_details(), runner.get_output_details()
    takes = {detail["name"]: detail for detail in interpreter.get_input_details()}
    return takes, {detail["name"]: detail for detail in interpreter.get_output_details()}


def _by_name(takes: Details, inputs: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> Arrays:
    if not isinstance(inputs, Mapping):
        if len(takes) != 1:
            raise ValueError(
                f"The file has several inputs: pass a dict with the keys {sorted(takes)}. "
                f"Received: {type(inputs).__name__}"
            )
        inputs = {next(iter(takes)): inputs}
    if set(inputs) != set(takes):
        raise ValueError(f"The file's inputs are {sorted(takes)}. Received: {sorted(inputs)}")
    arrays = {name: np.asarray(values, dtype=np.float32) for name, values in inputs.items()}
    for name, array in arrays.items():
        expected = tuple(int(size) for size in takes[name]["shape"][1:])
        if array.shape[1:] != expected or not len(array):
            raise ValueError(
                f"Input {name!r} needs the shape (examples, {', '.join(map(str, expected))}), with "
                f"at least one example. Received: {array.shape}"
            )
    if len({len(array) for array in arrays.values()}) > 1:
        counts = {name: len(array) for name, array in arrays.items()}
        raise ValueError(f"All inputs need as many examples. Received: {counts}")
    return arrays


def _invoke(interpreter: Any, takes: Details, batch: Arrays) -> None:
    for name, detail in takes.items():
        interpreter.resize_tensor_input(detail["index"], batch[name].shape)
    interpreter.allocate_tensors()
    for name, detail in takes.items():
        interpreter.set_tensor(detail["index"], _quantized(batch[name], detail))
    interpreter.invoke()


def _quantized(values: Array, detail: dict[str, Any]) -> Array:
    if detail["dtype"] != np.int8:
        return values.astype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    steps = np.rint(values / np.float32(scale)) + zero_point
    return np.asarray(np.clip(steps, -128, 127), dtype=np.int8)


def _dequantized(values: Array, detail: dict[str, Any]) -> Array:
    if detail["dtype"] != np.int8:
        return np.asarray(values, dtype=np.float32)
    scale, zero_point = detail["quantization"]
    return np.asarray((values.astype(np.float32) - zero_point) * np.float32(scale))
