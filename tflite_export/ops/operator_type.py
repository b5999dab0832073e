"""`OperatorType`: an operator of a file, and what it needs on a microcontroller."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tflite_export.file.file_model import FileModel, FileOperator

ScratchSizes = Callable[[FileOperator, FileModel], Sequence[int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicroKernel:
    """What TensorFlow Lite Micro needs to run an operator. No size has a default.

    Attributes:
        resolver: the method of the C++ resolver that adds the operator.
        structure_bytes: bytes that the kernel keeps in the arena for every such operator, beyond
            the bytes that all operators take.
        channel_bytes: bytes that it keeps for every scale of the weights, its second input.
        scratch: sizes of the buffers that it needs only while it runs.
        one_scale_is_free: whether it keeps no `channel_bytes` for weights with a single scale.
    """

    resolver: str
    structure_bytes: int
    channel_bytes: int
    scratch: ScratchSizes
    one_scale_is_free: bool = False


@dataclasses.dataclass(frozen=True)
class OperatorType:
    """An operator that this package writes.

    Attributes:
        code: its name in the file, such as `"CONV_2D"`.
        micro: how TensorFlow Lite Micro runs it; `None` if no file for it has this operator.
    """

    code: str
    micro: MicroKernel | None


def no_scratch(operator: FileOperator, file: FileModel) -> Sequence[int]:
    """The scratch of a kernel that needs no buffer while it runs."""
    return ()
