"""`predict`: a `.tflite` file on real inputs, as an application runs it."""

from __future__ import annotations

import functools
import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer.interpreter import named_inputs
from keras_qat.integer.own_files import is_own
from keras_qat.integer.worker import LONGEST_CALL, call_in_worker
from tflite_export.file.file_model import FileTensor
from tflite_export.file.runtimes import run_tflm
from tflite_export.file.writer import read_model

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Inputs = npt.ArrayLike | Mapping[str, npt.ArrayLike]
Details = dict[str, dict[str, Any]]

_MOST_THREADS, _LARGEST_BATCH = 256, 2**20

_CODES = (np.int8, np.uint8)
"""The dtypes of inputs and outputs that hold codes of a grid."""


def predict(
    path: str | os.PathLike[str],
    inputs: Inputs,
    *,
    runtime: str = "litert",
    batch_size: int = 256,
    threads: int = 1,
    max_seconds: float = LONGEST_CALL,
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
        threads: threads of LiteRT, at most 256.
        max_seconds: how long a file from outside may take: a damaged one may never end.

    A file that this process has not written and proved itself runs in a process of its own, which
    serves all calls: a file that crashes the runtime crashes nothing else.

    Returns:
        float32, shape (examples, ...). For several outputs, a dict by their names.

    Raises:
        ImportError: the runtime is not installed.
        ValueError: an unknown runtime, inputs that do not fit the file or hold NaN, or a file
            that LiteRT cannot load.
        InvalidFileError: the file is no TFLite file, is damaged, crashed the runtime, or took
            longer than `max_seconds`.
        FileNotFoundError: there is no such file.
        RuntimeError: TensorFlow Lite Micro refuses the file.
    """
    if runtime not in _RUNTIMES:
        raise ValueError(f"runtime must be one of {list(_RUNTIMES)}. Received: {runtime!r}")
    for name, value, most in (
        ("threads", threads, _MOST_THREADS),
        ("batch_size", batch_size, _LARGEST_BATCH),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{name} must be a whole number from 1 to {most}. Received: {value!r}")
    if not 0 < max_seconds <= threading.TIMEOUT_MAX:
        raise ValueError(f"max_seconds must be a positive number. Received: {max_seconds!r}")
    data = pathlib.Path(path).read_bytes()
    options: dict[str, Any] = {"runtime": runtime, "batch_size": batch_size, "threads": threads}
    if is_own(data):
        outputs = _RUNTIMES[runtime](data, inputs, batch_size, threads)
    else:
        _check(data)
        form, arrays = _sent(inputs)
        arrays["file"] = np.frombuffer(data, np.uint8)
        options["form"] = form
        outputs = call_in_worker(
            "tflite_export.predict:answer", arrays, options, str(path), max_seconds
        )
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))


@functools.lru_cache(maxsize=1)
def _check(data: bytes) -> None:
    """Reads a file once, as it should be: runtimes look less closely."""
    read_model(data)


def _sent(inputs: Inputs) -> tuple[str | list[str] | int, Arrays]:
    """Inputs for another process: their form and their arrays, `0`, `1`, ..."""
    if isinstance(inputs, Mapping):
        arrays = {str(place): np.asarray(each) for place, each in enumerate(inputs.values())}
        form: str | list[str] | int = list(map(str, inputs))
    elif isinstance(inputs, list | tuple) and any(np.ndim(each) for each in inputs):
        arrays = {str(place): np.asarray(each) for place, each in enumerate(inputs)}
        form = len(inputs)
    else:
        arrays, form = {"0": np.asarray(inputs)}, "array"
    for array in arrays.values():
        if array.dtype.kind not in "iufb":
            raise ValueError(f"Inputs must be numbers. Received: {array.dtype}")
    return form, arrays


def answer(arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Arrays:
    """Runs a file in this process, which is a worker; see `predict`."""
    form = options["form"]
    if form == "array":
        inputs: Any = arrays["0"]
    elif isinstance(form, int):
        inputs = [arrays[str(place)] for place in range(form)]
    else:
        inputs = {name: arrays[str(place)] for place, name in enumerate(form)}
    data, batch_size, threads = arrays["file"].tobytes(), options["batch_size"], options["threads"]
    if options["runtime"] == "litert":
        return _run_litert(_kept_interpreter(data, threads), inputs, batch_size)
    return _RUNTIMES[options["runtime"]](data, inputs, batch_size, threads)


def _predict_tflm(data: bytes, inputs: Inputs, batch_size: int, threads: int) -> Arrays:
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


def _predict_litert(data: bytes, inputs: Inputs, batch_size: int, threads: int) -> Arrays:
    return _run_litert(_interpreter(data, threads), inputs, batch_size)


def _interpreter(data: bytes, threads: int) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            'Running LiteRT needs ai-edge-litert: pip install "keras_qat[export]"'
        ) from error
    return Interpreter(model_content=data, num_threads=threads)


_kept_interpreter = functools.lru_cache(maxsize=1)(_interpreter)
"""A worker prepares a file once."""


def _run_litert(interpreter: Any, inputs: Inputs, batch_size: int) -> Arrays:
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
