"""The learned bit widths of a model: where they are, and whether they meet their targets."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_qat.keras_graph import nodes
from keras_qat.quantizers import Quantizer
from keras_qat.wrappers import QuantizedKernel, quantized_kernels

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

    def held(self) -> Tensor:
        """Whether the width stays at its target for good: a bool scalar."""
        return self.quantizer.held()

    def meets_target(self) -> bool:
        """Whether codes of the target number all levels. Reads variables: not for inside a step."""
        return bool(self.quantizer.meets_target(*self._kernel()))

    def narrow(self, bits: float | None = None) -> None:
        """Widens the steps that have more levels than that many bits; by default the target's."""
        self.quantizer.narrow(*self._kernel(), bits=bits)

    def hold(self, refit: bool = False) -> None:
        """Keeps the levels of the target for good, and lets steps move as fast as weights.

        Args:
            refit: first set steps to those that suit all levels of the target best.
        """
        self.quantizer.hold(*self._kernel(), refit=refit)
        self.quantizer.set_rate(1.0)

    def _kernel(self) -> tuple[Tensor, ...]:
        return () if self.layer is None else (self.layer.channels_last_kernel(),)


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
