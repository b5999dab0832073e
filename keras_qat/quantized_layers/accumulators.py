"""Rounding in inference as in the integer op of a weight layer and its neighbours."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from keras_qat.arithmetic import Arithmetic
from keras_qat.integer.qparams import INT8_MAX
from keras_qat.integer.storage_sizes import PACKED_BITS, STORED_MAX
from keras_qat.lowering.affine import inference_affine
from keras_qat.quantized_layers.target_codes import Neighbours
from keras_qat.quantizers import ActivationQuantizer, PutsOnGrid, WeightQuantizer
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.grid import Grid, round_to_codes
from keras_qat.quantizers.int8_grids import has_integers, rounding_if
from keras_qat.tensors import Tensor

_SMALLEST = 1e-30


@dataclasses.dataclass(frozen=True)
class WeightAccumulator:
    """The layers whose scales decide the grid of a weight layer's int32 bias.

    They are found in the graph and never saved with the layer.

    Attributes:
        input_quantizer: the layer that puts the input on its grid.
        weight_quantizer: the quantizer of the weight layer.
        affines: the affine maps directly behind the weight layer, such as a BatchNormalization.
        output_quantizer: the quantizer of the result.
        ceiling: the ceiling of an activation before `output_quantizer`; `None` without one.
        input_gain: the `input_gain` of the weight layer.
        relu: whether a ReLU is behind the layer, before `output_quantizer`.
        folded_by: the weight layer, if it can compute its affine maps too, and all layers that
            share one of them can.
        sharing: these layers, itself included. If one cannot compute the maps, none does.
    """

    input_quantizer: PutsOnGrid
    weight_quantizer: WeightQuantizer
    affines: tuple[Any, ...]
    output_quantizer: ActivationQuantizer
    ceiling: float | None = None
    input_gain: float = 1.0
    relu: bool = False
    folded_by: Any = None
    sharing: tuple[Any, ...] = dataclasses.field(default=(), compare=False)

    @property
    def neighbours(self) -> Neighbours:
        """The layers before and behind."""
        return Neighbours(
            self.input_quantizer, self.affines, self.output_quantizer, self.relu, self.ceiling
        )

    def has_integers(self) -> Any:
        """Whether int8 can hold what has been learned so far: a bool, or a tensor."""
        weights, largest = self.weight_quantizer, 0
        if weights.learns_width:
            largest = ops.max(weights.largest_code(self.folded_by.channels_last_kernel()))
        return has_integers(self.input_quantizer, self.output_quantizer, largest_code=largest)

    def round_bias(self, bias: Tensor, kernel: Tensor, weight_bits: int = 8) -> Tensor:
        """The bias of the layer, moved so that the folded bias is a whole number of int32 units.

        `gain` and `offset` are those that the affine maps have in inference, and the unit of the
        accumulator is `u = s_x * s_w * |gain| / 2**k`. The folded bias `gain * bias + offset`
        becomes `u * round((gain * bias + offset) / u)`. `k` is the headroom of the stored weights
        (`headroom`) where `s_x * s_w * |gain|` is below half an output step, else 0.

        Args:
            bias: one number for each output channel.
            kernel: the latent kernel, output channels last. Learned levels depend on it.
            weight_bits: the fewest bits in which weights are stored, if they fit.
        """
        gain, offset = self._gain_and_offset()
        unit = self._unit(gain, self.weight_quantizer.largest_code(kernel), weight_bits)
        gain = ops.where(unit > 0, gain, 1.0)
        safe = ops.where(unit > 0, unit, 1.0)
        rounded = ops.round((gain * bias + offset) / safe) * safe
        return ops.where(unit > 0, (rounded - offset) / gain, bias)

    def yields_codes(self, arithmetic: Arithmetic) -> bool:
        """Whether the weight layer has rounded already."""
        computes = arithmetic.fixed_point and self.folded_by is not None
        return computes and self.folded_by.has_integers() is True

    def rounding(self, arithmetic: Arithmetic) -> Rounding:
        """Rounds to codes from the accumulator: `round(multiplier * round(ratio / multiplier))`.

        Except for its float32 error, a float result is a whole number of accumulator units. This
        rounding takes that number and multiplies it once, in float32, as XNNPACK does. Ties between
        two codes then go the same way.

        `multiplier = s_x * s_w * |gain| / 2**k / s_y`. Here `k` is the headroom of the target grid.
        It is at least the `k` of the bias, and a finer unit does no harm.

        In fixed point the weight layer has rounded already, unless int8 cannot hold its codes.
        """
        if not arithmetic.fixed_point or self.folded_by is None:
            return self._from_accumulator()
        return rounding_if(self.folded_by.has_integers(), round_to_codes, self._from_accumulator())

    def _from_accumulator(self) -> Rounding:
        gain, _ = self._gain_and_offset()
        grid = self.weight_quantizer.grid
        unit = self._unit(gain, max(-grid.qmin, grid.qmax))
        multiplier = unit / self.output_quantizer.scale
        ceiling = None if self.ceiling is None else self.ceiling / self.output_quantizer.scale
        return accumulator_rounding(multiplier, ceiling)

    def _unit(self, gain: Tensor, largest_code: Any, weight_bits: int = 8) -> Tensor:
        """The unit of the accumulator of each channel; 0 for a channel without signal."""
        weight_scale = self.weight_quantizer.scale * self.input_gain * ops.abs(gain)
        unit = self.input_quantizer.scale * weight_scale
        fine = unit < 0.5 * self.output_quantizer.scale
        unit = ops.where(fine, unit / ops.power(2.0, headroom(largest_code, weight_bits)), unit)
        return ops.where(weight_scale > _SMALLEST, unit, 0.0)

    def _gain_and_offset(self) -> tuple[Tensor, Tensor]:
        gain, offset = ops.ones(()), ops.zeros(())
        for layer in self.affines:
            factor, term = inference_affine(layer)
            gain, offset = gain * factor, offset * factor + term
        return gain, offset


def accumulator_rounding(multiplier: Tensor, ceiling: Tensor | None) -> Rounding:
    """A rounding that first rounds to a whole number of accumulator units, then to codes.

    Args:
        multiplier: the accumulator's unit in output steps, per channel; 0 without signal.
        ceiling: ceiling of an activation before the quantizer, in output steps; `None` without one.
    """
    alive = multiplier > 0
    safe = ops.where(alive, multiplier, 1.0)

    def round_from_accumulator(ratio: Tensor, grid: Grid) -> Tensor:
        known = alive
        if ceiling is not None:  # the ceiling itself is not a whole number of units
            known = ops.logical_and(alive, ratio < ceiling)
        exact = ops.round(ratio / safe) * safe
        return round_to_codes(ops.where(known, exact, ratio), grid)

    return round_from_accumulator


def headroom(largest_code: Any, weight_bits: int = 8) -> Tensor:
    """The headroom `k`, as floats: how often codes up to `largest_code` double in their storage.

    That is the narrowest of INT2, INT4 and int8 which holds them and has `weight_bits` or more.

    >>> [float(k) for k in headroom([1, 2, 8, 127, 300])]
    [6.0, 5.0, 3.0, 0.0, 0.0]
    >>> [float(k) for k in headroom([1, 3, 7, 8, 9], weight_bits=4)]
    [2.0, 1.0, 0.0, 0.0, 3.0]
    >>> [float(k) for k in headroom([1, 2, 3, 9], weight_bits=2)]
    [0.0, 0.0, 1.0, 3.0]
    """
    codes = ops.expand_dims(ops.cast(largest_code, "float32"), -1)
    doubled = codes * np.float32(2.0 ** np.arange(1, INT8_MAX.bit_length()))
    most = float(INT8_MAX)
    for dtype, bits in PACKED_BITS.items():
        if bits >= weight_bits:  # the lowest code is one further from 0
            held = float(STORED_MAX[dtype])
            most = ops.where(codes <= held + 1, held, most)
    return ops.sum(ops.cast(doubled <= most, "float32"), axis=-1)
