"""`predict`: a `.tflite` file on real inputs, as an application runs it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer.interpreter import named_inputs
from tflite_export.file.file_model import FileTensor
from tflite_export.file.runtimes import run_tflm
from tflite_export.file.writer import read_model

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Inputs = npt.ArrayLike | Mapping[str, npt.ArrayLike]
Details = dict[str, dict[str, Any]]

_CODES = (np.int8, np.uint8)
"""The dtypes of inputs and outputs that hold codes of a grid."""


def predict(
    path: str | os.PathLike[str],
    inputs: Inputs,
    *,
    runtime: str = "litert",
    batch_size: int = 256,
    threads: int = 1,
) -> Array | Arrays:
    """Runs a file and returns real numbers.

    Inputs of int8 or uint8 are put on their grid (nearest integer, ties to even, saturated).
    Outputs of these come back as the real numbers that their codes stand for.

    Args:
        path: the `.tflite` file.
        inputs: real numbers, shape (examples, ...). For several inputs, a list in the order of the
            model's inputs, or a dict by their names.
        runtime: `"litert"` for the LiteRT interpreter as it comes (XNNPACK), `"tflm"` for
            TensorFlow Lite Micro. Only `"tflm"` runs files whose weights lie in lookup tables.
        batch_size: examples that LiteRT runs at once. It is 1 if the file has a fixed batch.
        threads: threads of LiteRT.

    Returns:
        float32, shape (examples, ...). For several outputs, a dict by their names.

    Raises:
        ImportError: the runtime is not installed.
        ValueError: an unknown runtime, inputs that do not fit the file or hold NaN, or a file
            that is no TFLite file or that LiteRT cannot load.
        FileNotFoundError: there is no such file. LiteRT raises a `ValueError` for it.
        RuntimeError: TensorFlow Lite Micro refuses the file.
    """
    if runtime not in _RUNTIMES:
        raise ValueError(f"runtime must be one of {list(_RUNTIMES)}. Received: {runtime!r}")
    outputs = _RUNTIMES[runtime](path, inputs, batch_size, threads)
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def _predict_tflm(
    path: str | os.PathLike[str], inputs: Inputs, batch_size: int, threads: int
) -> Arrays:
    data = pathlib.Path(path).read_bytes()
    file = read_model(data)
    takes, gives = (
        {name: _detail(file.tensors[tensor]) for name, tensor in side.items()}
        for side in (file.inputs, file.outputs)
    )
    arrays = _by_name(takes, inputs)
    codes = {name: _quantized(array, takes[name]) for name, array in arrays.items()}
    outputs = run_tflm(data, file, codes, every_tensor=False)
    return {
        name: _dequantized(outputs[tensor], gives[name]) for name, tensor in file.outputs.items()
    }


def _detail(tensor: FileTensor) -> dict[str, Any]:
    """The description that LiteRT gives of a tensor."""
    scale = float(tensor.scale[0]) if tensor.scale.size else 0.0
    return {
        "shape": tensor.shape,
        "dtype": np.dtype(tensor.dtype).type,
        "quantization": (scale, tensor.zero_point),
    }


def _predict_litert(
    path: str | os.PathLike[str], inputs: Inputs, batch_size: int, threads: int
) -> Arrays:
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
    if not all(_has_open_batch(detail) for detail in takes.values()):
        batch_size = 1
    parts: dict[str, list[Array]] = {name: [] for name in gives}
    for start in range(0, count, batch_size):
        batch = {name: array[start : start + batch_size] for name, array in arrays.items()}
        _invoke(interpreter, takes, batch)
        for name, detail in gives.items():
            parts[name].append(_dequantized(interpreter.get_tensor(detail["index"]), detail))
    return {name: np.concatenate(values) for name, values in parts.items()}


_RUNTIMES = {"litert": _predict_litert, "tflm": _predict_tflm}


def _ends(interpreter: Any) -> tuple[Details, Details]:
    """Inputs and outputs, named by the file's signature, or by its tensors if it has none."""
    for signature in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(signature)
        places = [detail["index"] for detail in interpreter.get_input_details()]
        by_name = runner.get_input_details().items()
        takes = dict(sorted(by_name, key=lambda item: places.index(item[1]["index"])))
        return takes, runner.get_output_details()
    takes = {detail["name"]: detail for detail in interpreter.get_input_details()}
    return takes, {detail["name"]: detail for detail in interpreter.get_output_details()}


def _by_name(takes: Details, inputs: Inputs) -> Arrays:
    inputs = named_inputs(inputs, list(takes), "file")
    arrays = {name: np.asarray(inputs[name], dtype=np.float32) for name in takes}
    for name, array in arrays.items():
        expected = tuple(int(size) for size in takes[name]["shape"][1:])
        if array.shape[1:] != expected or not len(array):
            raise ValueError(
                f"Input {name!r} needs the shape (examples, {', '.join(map(str, expected))}), with "
                f"at least one example. Received: {array.shape}"
            )
        missing = int(np.count_nonzero(np.isnan(array)))
        if missing:
            raise ValueError(
                f"Input {name!r} holds NaN in {missing} of {array.size} values: no integer stands "
                "for NaN. Fill them in, or drop their examples."
            )
    if len({len(array) for array in arrays.values()}) > 1:
        counts = {name: len(array) for name, array in arrays.items()}
        raise ValueError(f"All inputs need the same number of examples. Received: {counts}")
    return arrays


def _has_open_batch(detail: dict[str, Any]) -> bool:
    """Whether the file takes several examples at once; an operator may need a batch of 1."""
    return int(detail["shape_signature"][0]) == -1


def _invoke(interpreter: Any, takes: Details, batch: Arrays) -> None:
    for name, detail in takes.items():
        interpreter.resize_tensor_input(detail["index"], batch[name].shape)
    interpreter.allocate_tensors()
    for name, detail in takes.items():
        interpreter.set_tensor(detail["index"], _quantized(batch[name], detail))
    interpreter.invoke()


def _quantized(values: Array, detail: dict[str, Any]) -> Array:
    if detail["dtype"] not in _CODES:
        return values.astype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    steps = np.rint(values / np.float32(scale)) + zero_point
    ends = np.iinfo(detail["dtype"])
    return np.asarray(np.clip(steps, ends.min, ends.max), dtype=detail["dtype"])


def _dequantized(values: Array, detail: dict[str, Any]) -> Array:
    if detail["dtype"] not in _CODES:
        return np.asarray(values, dtype=np.float32)
    scale, zero_point = detail["quantization"]
    return np.asarray((values.astype(np.float32) - zero_point) * np.float32(scale))
