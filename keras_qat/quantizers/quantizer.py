"""`Quantizer`: the layer that holds a grid, its scale, and the path of its gradient."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat import estimators
from keras_qat.integer.qparams import QuantParams
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.grid import (
    Grid,
    nearest_codes,
    round_interpolated_to_codes,
    round_nonnegative_to_codes,
    round_pooled_to_codes,
    round_to_codes,
)
from keras_qat.quantizers.initial_scale import (
    Histogram,
    least_error_scale,
    least_error_weight_scale,
    range_scale,
)
from keras_qat.quantizers.replacement import (
    Selection,
    check_replacement,
    random_selection,
    random_selection_in_batch,
    selection_by_error,
)

Tensor = Any

NO_SOURCE = -1
"""For a call behind a layer that moves values of the grid, or clamps them again."""

_SEED_STATE = "seed_state"
_MEASURED_EXAMPLES = 4


class Accumulator(Protocol):
    """The int32 accumulator behind a float tensor, as the integer kernel will round it."""

    def rounding(self) -> Rounding:
        """Rounds `ratio = x / scale` to codes, from the accumulator that `x` stands for."""


class Quantizer(keras.layers.Layer):
    """Base of all quantizers: `call(x)` fake-quantizes, `codes(x)` gives the integers.

    The law that every quantizer keeps, exactly: `codes(x) * scale == call(x)`.

    A subclass implements `fake_quantize(x, rounding, selection)` with a gradient and may add
    variables. All of them are float32 under every dtype policy.

    Args:
        grid: the integer codes, a `Grid` (or its fields as a dict).
        per_channel: one scale for each channel of the last axis, instead of one for the tensor.
        estimator: of the gradient through rounding, an `Estimator` or its name.
        replacement: how the elements are chosen that training quantizes while `replaced_share` is
            below 1: "random" (fresh in every call, those of a batch independent in pairs),
            "persistent" (once chosen, always) or "error_first" (those near their codes); `None`
            quantizes all, always.
        seed: of what is drawn in training.
        code_regularization: of a quantizer of weights, how strongly training pulls them to codes by
            `keras_qat.objectives.sinusoidal_regularization`; 0 for not at all.

    Call arguments:
        x: float tensor of any shape.
        pooled: `x` is an average of values on this grid; round as AVERAGE_POOL_2D does.
        interpolated: `x` lies between values on this grid; round as RESIZE_BILINEAR does.
        source: which of the ops that yield values on this grid made `x`; `NO_SOURCE` for none.
        training: whether the call is one of training. In inference, behind an op whose neighbours
            are known (`accumulators`, by source), rounding starts from its integer accumulator.
    """

    def __init__(
        self,
        grid: Grid | dict[str, int],
        per_channel: bool = False,
        estimator: estimators.Estimator | str | dict[str, Any] = "ste",
        replacement: str | None = None,
        seed: int | None = None,
        code_regularization: float = 0.0,
        **kwargs: Any,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        check_replacement(replacement)
        self.estimator = estimators.get(estimator)
        self.replacement = replacement
        if replacement == "persistent" and seed is None:
            seed = random.randrange(2**31)  # saved: the choice outlives a reload
        self.seed = seed
        self._estimator_options: dict[str, keras.Variable] = {}
        self.code_regularization = float(code_regularization)
        self.seed_generator: keras.random.SeedGenerator | None = None
        if replacement == "random":
            self._draw_from_seed()
        self._grid = Grid(**grid) if isinstance(grid, dict) else grid
        self.per_channel = per_channel
        self.supports_masking = True
        self.accumulators: dict[int, Accumulator] = {}
        self.never_negative = False  # found in the graph, as accumulators are
        self.tap: Callable[[Tensor], None] | None = None  # sees what every call returns

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (input_shape[-1],) if self.per_channel else ()
        self.calibrated_scale = self.add_weight(
            name="calibrated_scale",
            shape=shape,
            initializer="ones",
            trainable=False,
            autocast=False,
        )
        self._build_training_state(input_shape)

    def _build_training_state(self, input_shape: tuple[int | None, ...]) -> None:
        self._estimator_options = {
            name: self.add_weight(
                name=name,
                shape=(),
                initializer=keras.initializers.Constant(start),
                trainable=False,
                autocast=False,
            )
            for name, start in self.estimator.variables.items()
        }
        if self.replacement is None:
            return
        self._is_activation = input_shape[0] is None
        self.replaced_share = self.add_weight(
            name="replaced_share", shape=(), initializer="ones", trainable=False, autocast=False
        )
        self.last_error = self.add_weight(
            name="last_error",
            shape=(),
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    @property
    def estimator_options(self) -> dict[str, keras.Variable]:
        """The options of the estimator that may change while a model trains."""
        return self._estimator_options

    def estimator_now(self) -> estimators.Estimator:
        """The estimator with its options as they are now."""
        now = {name: as_tensor(option) for name, option in self._estimator_options.items()}
        return self.estimator.at(now) if now else self.estimator

    def _draw_from_seed(self) -> None:
        if self.seed_generator is None:
            self.seed_generator = keras.random.SeedGenerator(self.seed)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self.seed_generator is not None:  # Keras keeps no seed state: draws would repeat
            store[_SEED_STATE] = self.seed_generator.state

    def load_own_variables(self, store: Any) -> None:
        values = {key: store[key] for key in list(store.keys())}
        state = values.pop(_SEED_STATE, None)
        if self.seed_generator is not None and state is not None:
            self.seed_generator.state.assign(state)
        super().load_own_variables(values)

    @property
    def grid(self) -> Grid:
        """The codes; where they are learned, as they are now."""
        return self._grid

    @property
    def bits(self) -> int:
        """The bits of the codes; where they are learned, those aimed at."""
        return self.grid.bits

    @property
    def deployable(self) -> bool:
        """Whether every value of this quantizer is a whole number of `scale`."""
        return True

    @property
    def learns_width(self) -> bool:
        """Whether training moves the bit width, which a penalty drives to `bits`."""
        return False

    @property
    def scale(self) -> Tensor:
        """The real value of code 1, positive; shape `()` or `(channels,)`."""
        return as_tensor(self.calibrated_scale)

    @property
    def step(self) -> Tensor:
        """The real value between two codes, in the shape of `scale`."""
        return self.scale * float(self.grid.step)

    def set_scale(self, scale: Any) -> None:
        """Starts over from a calibrated scale."""
        self.calibrated_scale.assign(scale)

    def calibrate(self, histogram: Histogram, keep_range: bool = False) -> None:
        """Starts over from the values of a tensor: with the least squared error.

        Args:
            histogram: how often the tensor takes which value.
            keep_range: clip nothing, as for a model's input.
        """
        start = range_scale if keep_range else least_error_scale
        self.set_scale(start(histogram, self.grid))

    def calibrate_weights(self, kernel: npt.NDArray[Any]) -> None:
        """Starts over from a kernel, channels last: with the least squared error."""
        self.set_scale(least_error_weight_scale(kernel, self.grid, self.per_channel))

    def call(
        self,
        x: Tensor,
        pooled: bool = False,
        interpolated: bool = False,
        source: int = 0,
        training: bool = False,
    ) -> Tensor:
        x = self.prepare(_as_float(x))
        selection = self._select(x) if training else None
        rounding = self._rounding(pooled, training, interpolated, source)
        return self._tapped(self._quantized(x, rounding, selection, training))

    def _quantized(
        self, x: Tensor, rounding: Rounding, selection: Selection | None, training: bool
    ) -> Tensor:
        """`fake_quantize`, with whatever else a quantizer needs in a call of training."""
        return self.fake_quantize(x, rounding, selection)

    def _tapped(self, quantized: Tensor) -> Tensor:
        if self.tap is not None:
            self.tap(quantized)
        return quantized

    def prepare(self, x: Tensor) -> Tensor:
        """What is rounded: `x` itself, unless a quantizer transforms it first."""
        return x

    def fake_quantize(self, x: Tensor, rounding: Any, selection: Selection | None = None) -> Tensor:
        """`scale * rounding(x / scale)` with the gradient of this quantizer.

        Args:
            x: the tensor.
            rounding: `(x / scale, grid) -> codes`.
            selection: `noise in steps -> which elements are quantized`; `None` for all.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement fake_quantize(x, rounding, selection)"
        )

    def _select(self, x: Tensor) -> Selection | None:
        """Chooses the elements to quantize in a call of training, and notes the error."""
        if self.replacement is None:
            return None
        measured = x[:_MEASURED_EXAMPLES] if self._is_activation else x
        self.last_error.assign(self.discretization_error(ops.stop_gradient(measured)))
        share = as_tensor(self.replaced_share)
        if self.replacement == "error_first":
            return selection_by_error(share)
        if self.replacement == "persistent":
            shape = x.shape[1:] if self._is_activation else x.shape
            return random_selection(shape, share, self.seed)
        draw = random_selection_in_batch if self._is_activation else random_selection
        return draw(ops.shape(x), share, self.seed_generator)

    def discretization_error(self, x: Tensor) -> Tensor:
        """`mean((clip(x) - x_hat)**2)` in ranges, from the lowest to the highest code: a scalar."""
        grid, ratio = self.forward_grid(), ops.cast(x, "float32") / self.scale
        clipped = ops.clip(ratio, grid.qmin, grid.qmax)
        error = (clipped - nearest_codes(clipped, grid)) / (grid.qmax - grid.qmin)
        return ops.mean(ops.square(error))

    def codes(self, x: Tensor, pooled: bool = False) -> Tensor:
        """The integer code of every element of `x` in inference, int32."""
        rounding = self._rounding(pooled, training=False)
        ratio = ops.cast(self.prepare(x), "float32") / self.scale
        return ops.cast(rounding(ratio, self.forward_grid()), "int32")

    def position(self, x: Tensor) -> Tensor:
        """Where values lie on the grid, in steps from its lowest code; only `x` has a gradient."""
        ratio = ops.cast(self.prepare(x), "float32") / ops.stop_gradient(self.scale)
        return (ratio - self.grid.qmin) / self.grid.step

    def largest_code(self, kernel: Tensor) -> Any:
        """What no code of a kernel exceeds: one number, or one for each channel."""
        return max(-self.grid.qmin, self.grid.qmax)

    def learned_bits(self, kernel: Tensor) -> int:
        """The bits that number the codes of a kernel as it is now."""
        return self.bits

    def deployed_codes(self, kernel: Tensor, name: str) -> npt.NDArray[np.int32]:
        """The codes of a kernel that a file can hold; `name` is that of its layer.

        Raises:
            LoweringError: it cannot hold what was learned so far.
        """
        return np.asarray(ops.convert_to_numpy(self.codes(kernel)))

    def forward_grid(self) -> Grid:
        """The codes inside the forward pass: where they are learned, the ends are tensors."""
        return self.grid

    def _rounding(
        self, pooled: bool, training: bool, interpolated: bool = False, source: int = 0
    ) -> Rounding:
        if interpolated:
            return round_interpolated_to_codes
        if pooled:
            return round_pooled_to_codes
        if training and self.never_negative:
            return round_nonnegative_to_codes
        if training or source not in self.accumulators:
            return round_to_codes
        return self.accumulators[source].rounding()

    def qparams(self) -> QuantParams:
        """The grid with the scale learned so far."""
        scale = np.asarray(ops.convert_to_numpy(self.scale), dtype=np.float32)
        return self.grid.qparams(scale, axis=-1 if self.per_channel else None)

    def compute_output_shape(self, input_shape: Any, *args: Any, **kwargs: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "grid": dataclasses.asdict(self._grid),
            "per_channel": self.per_channel,
            "estimator": self.estimator.serialized(),
            "replacement": self.replacement,
            "seed": self.seed,
            "code_regularization": self.code_regularization,
        }


def _as_float(x: Tensor) -> Tensor:
    """Whole numbers, as a model's input may have, as float32; Keras casts other floats itself."""
    whole = not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
    return ops.cast(x, "float32") if whole else x
