"""Where operators run in LiteRT on this machine: each is opened alone."""

from __future__ import annotations

import dataclasses
import importlib.metadata

from keras_qat.integer.storage_sizes import PACKED_BITS
from tflite_export.checks.rows import Fact
from tflite_export.file.file_model import FileModel, FileOperator
from tflite_export.file.litert_privates import taken_by_xnnpack
from tflite_export.file.lookup_table import DECODE_OPERATOR
from tflite_export.file.writer import write_model
from tflite_export.legal.processors import PROCESSOR_OPERATORS

_ON_PROCESSORS = frozenset(PROCESSOR_OPERATORS.values())


def on_litert_cpu(operator: FileOperator, file: FileModel) -> Fact:
    """With LiteRT's default on processors."""
    source = f"LiteRT {importlib.metadata.version('ai-edge-litert')}, run here"
    if operator.code == DECODE_OPERATOR:
        return Fact("refused", "LiteRT has no lookup tables of weights", source, "")
    data = write_model(alone(operator, file))
    try:
        taken = taken_by_xnnpack(data)
    except (RuntimeError, ValueError) as error:
        return Fact("refused", str(error).splitlines()[0], source, "")
    varies = ", and its last bit depends on the processor" * (operator.code in _ON_PROCESSORS)
    if taken:
        return Fact("fast", f"XNNPACK takes it{varies}", source, "")
    if any(name and file.tensors[name].dtype in PACKED_BITS for name in operator.inputs):
        why = "XNNPACK leaves INT4 and INT2 to a kernel that unpacks them"
        return Fact("slow", why, source, "")
    return Fact("runs", f"in a kernel of LiteRT's own{varies}", source, "")


def alone(operator: FileOperator, file: FileModel) -> FileModel:
    """A file of one operator."""
    names = [name for name in dict.fromkeys((*operator.inputs, *operator.outputs)) if name]
    given = [name for name in names if file.tensors[name].data is None]
    return dataclasses.replace(
        file,
        tensors={name: file.tensors[name] for name in names},
        operators=(operator,),
        inputs={name: name for name in given if name not in operator.outputs},
        outputs={name: name for name in operator.outputs},
        metadata={},
    )
