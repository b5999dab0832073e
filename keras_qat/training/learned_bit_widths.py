"""The learned bit widths of a model: where they are, and whether they meet their targets."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_qat.keras_graph import nodes
from keras_qat.quantized_layers import QuantizedKernel, quantized_kernels
from keras_qat.quantizers import Quantizer
from keras_qat.quantizers.custom_gradient import as_tensor

Tensor = Any


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedWidth:
    """One quantizer that learns its width, with the layer of its kernel if it has one.

    Attributes:
        name: of the weight layer, or of the activation's quantizer.
        quantizer: what learns.
        layer: whose kernel it quantizes; `None` for an activation.
    """

    name: str
    quantizer: Any
    layer: QuantizedKernel | None = None

    @property
    def target(self) -> int:
        """The bits aimed at."""
        return int(self.quantizer.bits)

    def widths(self) -> Tensor:
        """The real-valued widths in bits, differentiable: `(channels,)`, `(1,)` if it is one."""
        return ops.reshape(self.quantizer.bit_width(*self._kernel()), (-1,))

    def terms(self) -> tuple[Tensor, Tensor]:
        """What the widths are computed from: see `joint_widths`."""
        extent, log_scale = self.quantizer.width_terms(*self._kernel())
        return extent, log_scale

    @property
    def kind(self) -> tuple[str, bool]:
        """Widths of one kind are computed from their terms in one way."""
        return type(self.quantizer).__name__, self.quantizer.deployable

    def held_levels(self) -> Tensor:
        """The levels kept for good, whatever training does; 0 if none are: a scalar."""
        return as_tensor(self.quantizer.held_levels)

    def meets_target(self) -> bool:
        """Whether codes of the target number all levels. Reads variables: not for inside a step."""
        return bool(self.quantizer.meets_target(*self._kernel()))

    def narrow(self, bits: float | None = None) -> bool:
        """Widens the steps that have more levels than that many bits; by default the target's.

        Returns: whether there were any.
        """
        return bool(self.quantizer.narrow(*self._kernel(), bits=bits))

    def hold(self, refit: bool = False) -> None:
        """Keeps the levels of the target for good, and lets steps move as fast as weights.

        Args:
            refit: first set steps to those that suit all levels of the target best.
        """
        self.quantizer.hold(*self._kernel(), refit=refit)
        self.quantizer.set_rate(1.0)

    def _kernel(self) -> tuple[Tensor, ...]:
        return () if self.layer is None else (self.layer.channels_last_kernel(),)


def joint_widths(widths: Sequence[LearnedWidth]) -> tuple[list[LearnedWidth], list[int], Tensor]:
    """All widths, those of one kind at once: the step that is traced has far fewer nodes so.

    Returns: the widths ordered by kind; how many each has, one for each channel; and, in that
    order, what `LearnedWidth.widths` says while nothing is held: a vector.
    """
    ordered = sorted(widths, key=lambda width: width.kind)
    counts: list[int] = []
    bits = []
    for _, alike in itertools.groupby(ordered, key=lambda width: width.kind):
        some = list(alike)
        extents, log_scales = zip(*(width.terms() for width in some), strict=True)
        counts += [math.prod(each.shape) for each in log_scales]
        bits.append(some[0].quantizer.width_of(_in_one(extents), _in_one(log_scales)))
    return ordered, counts, ops.concatenate(bits)


def _in_one(tensors: Sequence[Tensor]) -> Tensor:
    """Numbers and vectors in one vector."""
    if all(len(tensor.shape) == 0 for tensor in tensors):
        return ops.stack(tensors)
    vectors = [ops.reshape(each, (1,)) if len(each.shape) == 0 else each for each in tensors]
    return ops.concatenate(vectors)


def learned_widths(model: keras.Model) -> list[LearnedWidth]:
    """Every width that training moves, in the order of the graph; frozen ones are left out."""
    found: dict[int, LearnedWidth] = {}
    for node in nodes(model):
        layer = node.operation
        sites = [
            LearnedWidth(kernel.name, kernel.weight_quantizer, kernel)
            for kernel in quantized_kernels(layer)
        ]
        sites += [LearnedWidth(layer.name, layer)] if isinstance(layer, Quantizer) else []
        found |= {id(site.quantizer): site for site in sites if site.quantizer.learns_width}
    return [width for width in found.values() if width.quantizer.trainable]
