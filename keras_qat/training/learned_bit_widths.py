"""The learned bit widths of a model, with their layers and targets."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.keras_graph import nodes
from keras_qat.quantized_layers import QuantizedKernel, quantized_kernels
from keras_qat.quantizers import Quantizer
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.tensors import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedWidth:
    """A quantizer that learns its width, with the layer of its kernel if it has one.

    Attributes:
        name: the name of the weight layer, or of the activation quantizer.
        quantizer: the quantizer.
        layer: the layer whose kernel it quantizes; `None` for an activation.
    """

    name: str
    quantizer: Any
    layer: QuantizedKernel | None = None

    @property
    def target(self) -> int:
        """The target width in bits."""
        return int(self.quantizer.bits)

    def widths(self) -> Tensor:
        """The real-valued widths in bits, differentiable: `(channels,)` or `(1,)`."""
        return ops.reshape(self.quantizer.bit_width(*self._kernel()), (-1,))

    def terms(self) -> tuple[Tensor, Tensor]:
        """The tensors from which `joint_widths` computes the widths."""
        extent, log_scale = self.quantizer.width_terms(*self._kernel())
        return extent, log_scale

    @property
    def kind(self) -> tuple[str, bool]:
        """The key of the formula that computes widths from their terms."""
        return type(self.quantizer).__name__, self.quantizer.deployable

    def held_levels(self) -> Tensor:
        """The fixed number of levels of a held grid, a scalar; 0 if the grid is not held."""
        return as_tensor(self.quantizer.held_levels)

    def meets_target(self) -> bool:
        """Whether the target's bits are enough for all levels.

        It reads variables: not for use in a step.
        """
        return bool(self.quantizer.meets_target(*self._kernel()))

    def narrow(self, bits: float | None = None) -> bool:
        """Widens the steps of grids with too many levels for `bits`, by default the target.

        Returns: whether there were any.
        """
        return bool(self.quantizer.narrow(*self._kernel(), bits=bits))

    def hold(self, refit: bool = False, fill: bool = True) -> float:
        """Holds the grid at its target, and lets steps move as fast as weights.

        Args:
            refit: first set the steps anew.
            fill: whether a channel with fewer levels than its target gets all of them.

        Returns: the largest change of a step, in octaves.
        """
        before = ops.convert_to_numpy(self.quantizer.log_scale)
        self.quantizer.hold(*self._kernel(), refit=refit, fill=fill)
        self.quantizer.set_rate(1.0)
        return float(np.max(np.abs(ops.convert_to_numpy(self.quantizer.log_scale) - before)))

    def _kernel(self) -> tuple[Tensor, ...]:
        return () if self.layer is None else (self.layer.channels_last_kernel(),)


def joint_widths(widths: Sequence[LearnedWidth]) -> tuple[list[LearnedWidth], list[int], Tensor]:
    """All real-valued widths in one vector, as if no grid was held.

    Widths of one kind are computed at once, which gives a traced step far fewer nodes.

    Returns: the widths ordered by kind, the number of channels of each, and the vector.
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
    """Scalars and vectors, joined in one vector."""
    if all(len(tensor.shape) == 0 for tensor in tensors):
        return ops.stack(tensors)
    vectors = [ops.reshape(each, (1,)) if len(each.shape) == 0 else each for each in tensors]
    return ops.concatenate(vectors)


def settle_frozen_widths(model: keras.Model) -> None:
    """Gives frozen grids with too many levels the levels of their targets, and holds them there.

    No training would bring them there. Frozen grids that meet their targets stay as they are.
    """
    for width in learned_widths(model, frozen=True):
        if not width.quantizer.trainable and not width.meets_target():
            width.hold(refit=True)


def learned_widths(model: keras.Model, frozen: bool = False) -> list[LearnedWidth]:
    """Every width that is trained, in the order of the graph.

    Args:
        model: the quantized model.
        frozen: whether the widths of frozen quantizers count too.
    """
    found: dict[int, LearnedWidth] = {}
    for node in nodes(model):
        layer = node.operation
        sites = [
            LearnedWidth(kernel.name, kernel.weight_quantizer, kernel)
            for kernel in quantized_kernels(layer)
        ]
        sites += [LearnedWidth(layer.name, layer)] if isinstance(layer, Quantizer) else []
        found |= {id(site.quantizer): site for site in sites if site.quantizer.learns_width}
    return [width for width in found.values() if frozen or width.quantizer.trainable]
