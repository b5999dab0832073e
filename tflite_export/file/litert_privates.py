"""LiteRT privates: which operators a delegate took."""

from __future__ import annotations

from tflite_export.file.runtimes import litert


def taken_by_xnnpack(data: bytes) -> bool:
    """Whether LiteRT's default, XNNPACK, takes any operator of a file, on this machine.

    Raises:
        ImportError: ai-edge-litert is not installed.
        RuntimeError: the runtime refuses the file.
    """
    interpreter = litert().Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    return any(each["op_name"] == "DELEGATE" for each in interpreter._get_ops_details())
