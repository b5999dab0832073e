"""`Emission`: the statement between the emitter of an op and the file."""

from __future__ import annotations

import dataclasses

from tflite_export.file_model import FileOperator, FileTensor


@dataclasses.dataclass(frozen=True, eq=False)
class Emission:
    """What one op adds to the file: its constants and its operator.

    Attributes:
        constants: tensors of this op alone, also those between its operators; weights come first.
        operator: the operator itself.
        before: operators that run just before it.
    """

    constants: tuple[FileTensor, ...]
    operator: FileOperator
    before: tuple[FileOperator, ...] = ()
