"""`Emission`: the tensors and operators that one op adds to a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tflite_export.file.file_model import FileOperator, FileTensor


@dataclasses.dataclass(frozen=True, eq=False)
class Emission:
    """What one op adds to the file: its constants and its operator.

    Attributes:
        constants: tensors that belong to this op, weights first. Tensors between its operators are
            among them.
        operator: the operator that writes the op's output.
        before: operators that run just before it.
    """

    constants: tuple[FileTensor, ...]
    operator: FileOperator
    before: tuple[FileOperator, ...] = ()


def file_operator(
    code: str,
    version: int,
    inputs: tuple[str, ...],
    output: str,
    options: str = "",
    fields: Mapping[str, Any] | None = None,
) -> FileOperator:
    """An operator with one output."""
    return FileOperator(code, version, inputs, (output,), options, fields or {})


def int32_constant(name: str, values: npt.ArrayLike) -> FileTensor:
    """A constant such as a shape."""
    data = np.asarray(values, dtype=np.int32)
    return FileTensor(name, data.shape, "int32", data=data)
