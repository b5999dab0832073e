"""The content of a `.tflite` file by name, as emitters, writer and reader exchange it.

Only `writer.py` knows of indices, buffers and the schema.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from keras_qat.integer.storage_sizes import PACKED_BITS, packed_bytes

Shape = tuple[int, ...]
IoDtype = Literal["int8", "uint8", "float32"]
IO_DTYPES: tuple[IoDtype, ...] = ("int8", "uint8", "float32")


@dataclasses.dataclass(frozen=True, eq=False)
class FileTensor:
    """One tensor of the file.

    Attributes:
        name: unique name in the file.
        shape: shape of the tensor. Activations have a batch of 1 first.
        dtype: `"int4"`, `"int2"`, or the name of a dtype of NumPy.
        scale: float32, one scale or one per channel; empty without quantization.
        zero_point: the integer that stands for 0.0.
        axis: the channel axis, if there are several scales.
        data: the values of a constant (INT4 and INT2 in an int8 array); `None` for an activation.
        resizable: whether the first axis is a batch that a caller may resize.
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
        """The number of elements."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class FileOperator:
    """One operator of the file.

    Attributes:
        code: name of the operator, such as `"CONV_2D"`. A name that is not builtin is custom.
        version: lowest version of the operator that has these dtypes.
        inputs: names of activations and constants, in the operator's order. An empty name stands
            for an optional input that is left out.
        outputs: tensor names.
        options: name of the option table, such as `"Conv2DOptions"`; empty if there is none.
        fields: values of the option table. An enumeration is given by the name of its value.
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
        description: free text about the file.
        tensors: every tensor by name, in the order of the file.
        operators: the operators in the order they run.
        inputs: tensor name of each model input, by the name callers use.
        outputs: tensor name of each model output, by the name callers use.
        compact: whether the file is for TensorFlow Lite Micro alone. A compact file leaves out
            what this runtime does not read: batches of other sizes, the scales of several biases,
            and all zero points of a vector of scales except one, without which LiteRT does not
            open a file. Of two operators that do the same, it has the one that takes less memory.
        metadata: buffers beside the network, by their names.
    """

    description: str
    tensors: Mapping[str, FileTensor]
    operators: tuple[FileOperator, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    compact: bool = False
    metadata: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


def stored_bytes(file: FileModel, name: str) -> int:
    """The bytes of a constant's data. For decoded weights, the bytes of their parts."""
    tensor = file.tensors[name]
    if tensor.data is None:
        (decode,) = (op for op in file.operators if name in op.outputs)
        return sum(stored_bytes(file, part) for part in decode.inputs)
    if tensor.dtype in PACKED_BITS:
        return packed_bytes(tensor.data.size, PACKED_BITS[tensor.dtype])
    return tensor.data.nbytes
