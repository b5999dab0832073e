"""Runs a file in LiteRT: here, or as a script of another Python, which imports no other module.

The other Python needs NumPy and `ai_edge_litert` or `tflite_runtime`. It answers requests until its
input ends. A request and an answer are each a length of 8 bytes and an `.npz` archive.
"""

from __future__ import annotations

import importlib
import io
import os
import platform
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MODULES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
_LENGTH = struct.Struct("<Q")
Indexed = Mapping[int, "np.ndarray[Any, Any]"]
Message = Mapping[str, "np.ndarray[Any, Any]"]


def run(
    data: bytes,
    inputs: Indexed,
    outputs: Sequence[int],
    batch: int,
    reference: bool,
    module: str = MODULES[0],
) -> dict[int, np.ndarray[Any, Any]]:
    """Runs a file.

    Args:
        data: the bytes of the file.
        inputs: arrays of one batch size, by the index of their tensor.
        outputs: the indices of the tensors to return.
        batch: how many examples run at once.
        reference: use the reference kernels, which keep every tensor, instead of the default ones.
        module: which runtime.

    Returns:
        Arrays by the index of their tensor.
    """
    runtime = importlib.import_module(module)
    kernels = runtime.OpResolverType
    interpreter = runtime.Interpreter(
        model_content=data,
        experimental_op_resolver_type=kernels.BUILTIN_REF if reference else kernels.AUTO,
        experimental_preserve_all_tensors=reference,
        num_threads=1,
    )
    found: dict[int, list[np.ndarray[Any, Any]]] = {index: [] for index in outputs}
    examples = next(iter(inputs.values())).shape[0]
    for start in range(0, examples, batch):
        part = {index: array[start : start + batch] for index, array in inputs.items()}
        for index, array in part.items():
            interpreter.resize_tensor_input(index, array.shape)
        interpreter.allocate_tensors()
        for index, array in part.items():
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        for index, arrays in found.items():
            arrays.append(np.array(interpreter.get_tensor(index)))
    return {index: np.concatenate(arrays) for index, arrays in found.items()}


def run_compiled(
    data: bytes, inputs: Indexed, outputs: Sequence[int]
) -> dict[int, np.ndarray[Any, Any]]:
    """Runs a file in LiteRT's CompiledModel on the processor, one example after the other.

    Args:
        data, inputs: see `run`.
        outputs: the indices of outputs of the file.

    Returns:
        Arrays by the index of their tensor.
    """
    compiled = importlib.import_module("ai_edge_litert.compiled_model")
    model = compiled.CompiledModel.from_buffer(data)
    (signature,) = model.get_signature_list()
    given, taken = model.create_input_buffers(0), model.create_output_buffers(0)
    ins, outs = (
        list(details.values())
        for details in (
            model.get_input_tensor_details(signature),
            model.get_output_tensor_details(signature),
        )
    )
    found: dict[int, list[np.ndarray[Any, Any]]] = {index: [] for index in outputs}
    for example in range(next(iter(inputs.values())).shape[0]):
        for buffer, each in zip(given, ins, strict=True):
            buffer.write(np.ascontiguousarray(inputs[each["index"]][example : example + 1]))
        model.run_by_index(0, given, taken)
        for buffer, each in zip(taken, outs, strict=True):
            if each["index"] in found:
                size = int(np.prod(each["shape"]))
                values = buffer.read(size, np.dtype(each["dtype"]))
                found[each["index"]].append(np.array(values).reshape(each["shape"]))
    return {index: np.concatenate(arrays) for index, arrays in found.items()}


def send(stream: Any, arrays: Message) -> None:
    """Writes one message."""
    archive = io.BytesIO()
    np.savez(archive, allow_pickle=False, **dict(arrays))
    stream.write(_LENGTH.pack(archive.tell()))
    stream.write(archive.getbuffer())
    stream.flush()


def receive(stream: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Reads one message. Raises an `EOFError` if there is none."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError("the other process has ended")
    (length,) = _LENGTH.unpack(head)
    content = stream.read(length)
    if len(content) < length:
        raise EOFError("the other process has ended")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)


def _answer(request: Message) -> Message:
    """Runs the file of a request, or says which runtime runs here."""
    module = next((name for name in MODULES if _found(name)), None)
    if module is None:
        raise ImportError("neither ai_edge_litert nor tflite_runtime is installed there")
    if "model" not in request:
        package = importlib.import_module(module.partition(".")[0])
        version = getattr(package, "__version__", "of an unknown version")
        said = f"{package.__name__} {version} on {platform.machine()}"
        return {"said": np.frombuffer(said.encode(), np.uint8)}
    inputs = {int(name[5:]): array for name, array in request.items() if name.startswith("input")}
    data, wanted = request["model"].tobytes(), [int(index) for index in request["outputs"]]
    if request["compiled"]:
        outputs = run_compiled(data, inputs, wanted)
    else:
        batch, reference = int(request["batch"]), bool(request["reference"])
        outputs = run(data, inputs, wanted, batch, reference, module)
    return {f"output{index}": array for index, array in outputs.items()}


def _found(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def serve() -> None:
    """Answers requests. What native code prints goes to the standard error."""
    given, taken = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            request = receive(given)
        except EOFError:
            return
        try:
            answer = _answer(request)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            answer = {"error": np.frombuffer(said.encode(), np.uint8)}
        send(taken, answer)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file
    serve()
