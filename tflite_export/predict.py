"""`predict`: a `.tflite` file on real inputs, as an application runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def predict(
    path: str | os.PathLike[str],
    inputs: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    *,
    batch_size: int = 256,
    threads: int = 1,
) -> Array | dict[str, Array]:
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
    arrays = _by_name(interpreter, inputs)
    count = len(next(iter(arrays.values())))
    parts: dict[str, list[Array]] = {}
    for start in range(0, count, batch_size):
        batch = {name: array[start : start + batch_size] for name, array in arrays.items()}
        for name, values in _run(interpreter, batch).items():
            parts.setdefault(name, []).append(values)
    outputs = {name: np.concatenate(values) for name, values in parts.items()}
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def _by_name(
    interpreter: Any, inputs: npt.ArrayLike | Mapping[str, npt.ArrayLike]
) -> dict[str, Array]:
    expected = {detail["name"]: detail["shape"] for detail in interpreter.get_input_details()}
    if not isinstance(inputs, Mapping):
        inputs = {next(iter(expected)): inputs} if len(expected) == 1 else {}
    if set(inputs) != set(expected):
        raise ValueError(f"The file's inputs are {sorted(expected)}. Received: {sorted(inputs)}")
    arrays = {name: np.asarray(values, dtype=np.float32) for name, values in inputs.items()}
    for name, array in arrays.items():
        if array.shape[1:] != tuple(expected[name][1:]) or not len(array):
            raise ValueError(
                f"Input {name!r} must have shape (examples, *{tuple(expected[name][1:])}), with "
                f"at least one example. Received: {array.shape}"
            )
    return arrays


def _run(interpreter: Any, batch: dict[str, Array]) -> dict[str, Array]:
    for detail in interpreter.get_input_details():
        shape = batch[detail["name"]].shape
        if tuple(detail["shape"]) != shape:
            interpreter.resize_tensor_input(detail["index"], shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], _quantized(batch[detail["name"]], detail))
    interpreter.invoke()
    return {
        detail["name"]: _dequantized(interpreter.get_tensor(detail["index"]), detail)
        for detail in interpreter.get_output_details()
    }


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
