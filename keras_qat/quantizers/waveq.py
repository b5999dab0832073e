"""`WaveQWeightQuantizer`: the period of a sinusoidal regularizer learns the width of each layer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.quantizers.constraints import Within
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.dorefa import DoReFaQuantizer
from keras_qat.quantizers.fake_quantize import Rounding, fixed_step_size
from keras_qat.quantizers.grid import Grid
from keras_qat.quantizers.replacement import Selection
from keras_qat.tensors import Tensor

_WIDEST = 7
_LARGEST_CODES = np.array([2**bits - 1 for bits in range(_WIDEST + 1)], np.float32)
_LARGEST_WITH_ZERO = np.array([0, *(2**bits - 1 for bits in range(_WIDEST))], np.float32)


@keras.saving.register_keras_serializable(package="keras_qat")
class WaveQWeightQuantizer(DoReFaQuantizer):
    """DoReFa's weights at a learned number of bits, one number for the kernel.

    Forward: DoReFa's levels at `ceil(width)` bits. The trained `width` is a real number from 1 to 7
    that starts at `bits`. The task loss gives it no gradient. It follows the loss
    `code_regularization * mean sin(pi * v)**2 / 2**width + width_regularization * width`, with the
    position `v = (2**width - 1) * (t + 1) / 2` of weights that DoReFa squashed to `t` in [-1, 1].
    So `1 / (2**width - 1)` is the period of the sine. The first term moves weights to codes, and
    keeps a width on whose codes they lie. The second one makes widths fall.

    Backward, for weights: the gradient of `DoReFaQuantizer`. The regularization is
    differentiated as it stands, for weights and width.

    With `preserve_sparsity`, zero is a level: the grid is the one that `DoReFaQuantizer` then has,
    the width stays at 2 bits or more, and `v = (2**width - 2) * (t + 1) / 2`.

    Source: WaveQ (Elthakeb et al. 2020, arXiv 2003.00146). The mean over weights, constant
    strengths and the bounds are our own; the paper raises and lowers its strengths in three phases.

    Args:
        bits: the width at the start, 1 to 7.
        width_regularization: the price of a bit in the training loss, 0 or more.
        per_channel, code_regularization, estimator, replacement, seed: see `WeightQuantizer`.
        preserve_sparsity, preserve_clusters: see `WeightQuantizer`.

    Raises:
        ValueError: bits that are not a whole number from 1 to 7.

    >>> quantizer = WaveQWeightQuantizer(bits=2)
    >>> [round(float(w), 2) for w in quantizer(keras.ops.array([-1.0, 0.2, 1.0]))]
    [-1.0, 0.33, 1.0]
    """

    def __init__(self, bits: int = _WIDEST, width_regularization: float = 0.0, **kwargs: Any):
        super().__init__(_checked(bits), **kwargs)
        self.start_bits = bits
        self.width_regularization = float(width_regularization)
        self._has_zero = self.grid.step == 1
        self._largest_codes = _LARGEST_WITH_ZERO if self._has_zero else _LARGEST_CODES
        widest = int(self._largest_codes[-1])
        self._grid = Grid(-widest, widest, step=self.grid.step)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.width = self.add_weight(
            name="width",
            shape=(),
            initializer=keras.initializers.Constant(self.start_bits),
            constraint=Within(2.0 if self._has_zero else 1.0, float(_WIDEST)),
            autocast=False,
        )
        super().build(input_shape)

    @property
    def bits(self) -> int:
        """The width at the start."""
        return self.start_bits

    @property
    def regularized(self) -> bool:
        return super().regularized or self.width_regularization > 0.0

    @property
    def scale(self) -> Tensor:
        return as_tensor(self.calibrated_scale) * (self.grid.qmax / self._largest_code())

    def set_scale(self, scale: Any) -> None:
        """Sets the scale at the width of now; at another width the ends of the range stay."""
        largest = ops.convert_to_numpy(self._largest_code())
        self.calibrated_scale.assign(np.float32(scale * largest / self.grid.qmax))

    def fake_quantize(
        self, x: Tensor, rounding: Rounding, selection: Selection | None = None
    ) -> Tensor:
        grid, estimator = self.forward_grid(), self.estimator_now()
        return fixed_step_size(x, self.scale, grid, rounding, estimator, selection)

    def forward_grid(self) -> Grid:
        largest: Any = self._largest_code()
        return Grid(-largest, largest, self.grid.step)

    def width_position(self, x: Tensor) -> Tensor:
        """The position on the grid of a real-valued width, differentiable in it and in `x`."""
        share = 0.5 * (self.prepare(x) / self.ends() + 1.0)
        return share * (ops.power(2.0, as_tensor(self.width)) - (2.0 if self._has_zero else 1.0))

    @property
    def kept_grid(self) -> tuple[int, ...] | None:
        """None: the width is a variable, which a file brings along."""
        return None

    def learned_bits(self, kernel: Tensor) -> int:
        return int(ops.convert_to_numpy(self._bits_now()))

    def _bits_now(self) -> Tensor:
        return ops.cast(ops.ceil(ops.stop_gradient(as_tensor(self.width))), "int32")

    def _largest_code(self) -> Tensor:
        return ops.take(self._largest_codes, self._bits_now())

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "width_regularization": self.width_regularization,
        }


def _checked(bits: int) -> int:
    if bits > _WIDEST:
        raise ValueError(
            f"WaveQ's widths are 1 to {_WIDEST} bits: 2**8 evenly spaced levels without a zero "
            f"point do not fit in int8. Received: {bits!r}"
        )
    return bits
