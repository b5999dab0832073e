"""What a `.tflite` file says, by name: the frozen statement between emitters, writer and reader.

Nothing here knows of indices, buffers or the schema; `writer.py` alone does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from keras_qat.integer.storage_sizes import int4_bytes

Shape = tuple[int, ...]
IoDtype = Literal["int8", "float32"]
IO_DTYPES: tuple[IoDtype, ...] = ("int8", "float32")


@dataclasses.dataclass(frozen=True, eq=False)
class FileTensor:
    """One tensor of the file.

    Attributes:
        name: unique in the file.
        shape: batch 1 first for activations.
        dtype: `"int4"`, or the name of a dtype of NumPy.
        scale: float32 scales, empty without quantization, one number or one per channel.
        zero_point: the integer that stands for 0.0.
        axis: the channel axis of a vector of scales.
        data: the constant's values (INT4 in an int8 array), `None` for an activation.
        resizable: the first axis is a batch that a caller may resize.
    """

    name: str
    shape: Shape
    dtype: str
    scale: npt.NDArray[np.float32] = dataclasses.field(
        default_factory=lambda: np.zeros(0, dtype=np.float32)
    )
    zero_point: int = 0
    axis: int = 0
    data: npt.NDArray[Any] | None = None
    resizable: bool = False

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class FileOperator:
    """One operator of the file.

    Attributes:
        code: name of the operator, as `"CONV_2D"`; custom where it is no builtin one.
        version: lowest version of the operator that has these dtypes.
        inputs: tensor names, activations and constants, in the operator's order; empty for one
            that it does without.
        outputs: tensor names.
        options: name of the operator's option table, as `"Conv2DOptions"`; empty without.
        fields: values of the option table; enumerations by the name of the value.
    """

    code: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class FileModel:
    """One whole file.

    Attributes:
        description: free text for people who open the file.
        tensors: every tensor by name, in the order of the file.
        operators: the operators in the order they run.
        inputs: tensor name of each model input, by the name callers use.
        outputs: tensor name of each model output, by the name callers use.
        compact: for TensorFlow Lite Micro alone. What it does without is left out: batches of
            other sizes, the scales of several biases, and all zero points of a vector of scales but
            one. Of operators that do the same, it has those that take less memory.
    """

    description: str
    tensors: Mapping[str, FileTensor]
    operators: tuple[FileOperator, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    compact: bool = False


def stored_bytes(file: FileModel, name: str) -> int:
    """The bytes that the data of a constant takes; of a decoded one, that of its parts."""
    tensor = file.tensors[name]
    if tensor.data is None:
        (decode,) = (op for op in file.operators if name in op.outputs)
        return sum(stored_bytes(file, part) for part in decode.inputs)
    return int4_bytes(tensor.data.size) if tensor.dtype == "int4" else tensor.data.nbytes
