"""Values that a target computes, told to the quantizers of a training step."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras import ops

from keras_qat.tensors import Tensor

_TOLD: contextvars.ContextVar[dict[int, list[Tensor]] | None] = contextvars.ContextVar(
    "values of the target", default=None
)


@contextlib.contextmanager
def telling(values: Mapping[Any, Sequence[Tensor]]) -> Iterator[None]:
    """Tells each quantizer what the target computes in each of its calls, in their order."""
    token = _TOLD.set({id(quantizer): list(each) for quantizer, each in values.items()})
    try:
        yield
    finally:
        _TOLD.reset(token)


def trains_as_target() -> bool:
    """Whether this training step rounds as a target does."""
    return _TOLD.get() is not None


def as_told(quantizer: Any, output: Tensor) -> Tensor:
    """What the target computes in this call, with the gradient of `output`; else `output`."""
    told = _TOLD.get()
    if told is None:
        return output
    value = told[id(quantizer)].pop(0)
    return output + ops.stop_gradient(ops.cast(value, output.dtype) - output)
