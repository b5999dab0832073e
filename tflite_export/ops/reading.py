"""`FileReading`: a file that was read back, for the checks of learned constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from keras_qat.integer import IntegerGraph
from tflite_export.errors import VerificationError
from tflite_export.file.file_model import FileModel, FileOperator, FileTensor


@dataclasses.dataclass(frozen=True, eq=False)
class FileReading:
    """A file that was read back, and the graph that it has to state.

    Attributes:
        file: the content that was read.
        graph: the legalized graph.
        native: operators that compute a lookup without its table, by the lookup's output.
    """

    file: FileModel
    graph: IntegerGraph
    native: Mapping[str, FileOperator]

    def tensor(self, name: str) -> FileTensor:
        """The tensor of that name; a `VerificationError` if the file has none."""
        if name not in self.file.tensors:
            raise VerificationError(f"The file has no tensor {name!r}.")
        return self.file.tensors[name]

    def writer(self, name: str) -> FileOperator:
        """The operator that writes a tensor; a `VerificationError` if none does."""
        found = self.find_writer(name)
        if found is None:
            raise VerificationError(f"No operator of the file writes tensor {name!r}.")
        return found

    def find_writer(self, name: str) -> FileOperator | None:
        """The operator that writes a tensor; `None` for a constant and an input."""
        return next((op for op in self.file.operators if name in op.outputs), None)
