"""`Quantizer`: the layer that owns the parameters of one grid and fake-quantizes a tensor."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat import estimators
from keras_qat.integer.qparams import QuantParams
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.discretization_loss import collect, mean_squared_distance
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.grid import Grid, nearest_codes, round_to_codes, stated_grid
from keras_qat.quantizers.replacement import (
    Selection,
    check_replacement,
    nothing_selected,
    random_selection,
    selection_by_error,
)
from keras_qat.tensors import Tensor

_SEED_STATE, _GRID = "seed_state", "grid"


class Quantizer(keras.layers.Layer):
    """The base of all quantizers: a grid, its scale, and a gradient.

    To write a quantizer, subclass `WeightQuantizer` or `ActivationQuantizer` and implement
    `fake_quantize(x, rounding, selection)` with a gradient. A subclass may add variables. All
    variables are float32 under every dtype policy. Every quantizer keeps one law exactly:
    `codes(x) * scale == call(x)`.

    Args:
        grid: the integer codes, a `Grid` (or its fields as a dict).
        estimator: the rule for the gradient through rounding, an `Estimator` or its name.
        replacement: how training selects the elements that it quantizes while `replaced_share` is
            below 1. "random" selects anew in every call; the elements of a batch are then
            independent in pairs. "persistent" keeps an element once it is selected. "error_first"
            selects the elements nearest to their codes. `None` quantizes all elements.
        replacement_order: the order in which a schedule reaches the tensors of a model: "global",
            "forward" or "reverse" (`keras_qat.callbacks.PEGESchedule`).
        discretization_loss: the factor of `mean(((x - x_hat) / R)**2)` in the training loss of a
            `QuantizedModel`, with `R` the range of the grid. Values move to their codes.
        seed: the seed of the random draws in training.

    Raises:
        ValueError: no such estimator, replacement or order, or no grid (`stated_grid`).
    """

    def __init__(
        self,
        grid: Grid | dict[str, int],
        estimator: estimators.Estimator | str | dict[str, Any] = "ste",
        replacement: str | None = None,
        replacement_order: str = "global",
        discretization_loss: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        check_replacement(replacement, replacement_order)
        self.estimator = estimators.get(estimator)
        self.replacement = replacement
        self.replacement_order = replacement_order
        self.discretization_loss = float(discretization_loss)
        if replacement == "persistent" and seed is None:
            seed = random.randrange(2**31)  # saved, so a loaded model selects the same elements
        self.seed = seed
        self._estimator_options: dict[str, keras.Variable] = {}
        self._trained_options: dict[str, keras.Variable] = {}
        self.seed_generator: keras.random.SeedGenerator | None = None
        if replacement == "random":
            self._draw_from_seed()
        self._grid = stated_grid(grid)
        self.supports_masking = True
        self.pulls = True  # whether the discretization loss counts; not where a kernel is frozen
        self.loaded_grid: tuple[int, ...] | None = None  # of the file of the last weights
        self.tap: Callable[[Tensor], None] | None = None  # called with the output of every call

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self._build_scale(input_shape)
        self._build_training_state()

    def _build_scale(self, input_shape: tuple[int | None, ...]) -> None:
        self.calibrated_scale = self.add_weight(
            name="calibrated_scale",
            shape=self.scale_shape(input_shape),
            initializer="ones",
            trainable=False,
            autocast=False,
        )

    def scale_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the scale: `()`, one number for the tensor."""
        return ()

    def _build_training_state(self) -> None:
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
        self._trained_options = {
            name: self.add_weight(
                name=f"log_{name}",
                shape=(),
                initializer=keras.initializers.Constant(math.log(start)),
                autocast=False,
            )
            for name, (start, _) in self.estimator.trained.items()
        }
        if self.replacement is None:
            return
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
        """The estimator with the current values of its options."""
        now = {name: as_tensor(option) for name, option in self._estimator_options.items()}
        for name, logarithm in self._trained_options.items():
            now[name] = ops.stop_gradient(ops.exp(as_tensor(logarithm)))
        return self.estimator.at(now) if now else self.estimator

    def _trains_options(self, x: Tensor) -> Tensor:
        """Zeros, whose derivatives train the options of the estimator.

        They have the derivative of the code that the estimator differentiates, times the step,
        inside of the grid. Elements that a replacement leaves out also count.
        """
        position, grid = ops.stop_gradient(self.position(x)), self.grid
        steps = (grid.qmax - grid.qmin) / grid.step
        inside = ops.cast(ops.logical_and(position >= 0.0, position <= steps), "float32")
        noise = ops.round(position) - position
        added = ops.zeros_like(position)
        for name, (_, soft) in self.estimator.trained.items():
            code = soft(noise, ops.exp(as_tensor(self._trained_options[name])))
            added += code - ops.stop_gradient(code)
        return ops.stop_gradient(self.step) * inside * added

    def _draw_from_seed(self) -> None:
        if self.seed_generator is None:
            self.seed_generator = keras.random.SeedGenerator(self.seed)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self.kept_grid is not None:
            store[_GRID] = np.array(self.kept_grid, np.int32)
        if self.seed_generator is not None:  # Keras saves no seed state, so draws would repeat
            store[_SEED_STATE] = self.seed_generator.state

    def load_own_variables(self, store: Any) -> None:
        values = {key: store[key] for key in list(store.keys())}
        state, grid = values.pop(_SEED_STATE, None), values.pop(_GRID, None)
        self.loaded_grid = None if grid is None else tuple(map(int, np.asarray(grid)))
        if self.seed_generator is not None and state is not None:
            self.seed_generator.state.assign(state)
        super().load_own_variables(values)

    @property
    def grid(self) -> Grid:
        """The codes; if they are learned, the current ones."""
        return self._grid

    @property
    def bits(self) -> int:
        """The bit width of the codes; if it is learned, the target width."""
        return self.grid.bits

    @property
    def kept_grid(self) -> tuple[int, ...] | None:
        """The bits and the codes that weights in a file are for; `None` if they fit any."""
        return self.bits, self._grid.qmin, self._grid.qmax

    @property
    def deployable(self) -> bool:
        """Whether every output of this quantizer is a whole number times `scale`."""
        return True

    @property
    def learns_width(self) -> bool:
        """Whether the bit width is trained, with a penalty that drives it to `bits`."""
        return False

    @property
    def holds(self) -> bool:
        """Whether training fixed the number of levels of a grid that learns them.

        It reads a variable: not for use in a training step.
        """
        return False

    def unit_of(self, variable: keras.Variable) -> float:
        """What 1 in a trained variable stands for. It reads a variable, as `holds` does."""
        return 1.0

    @property
    def scale(self) -> Tensor:
        """The real value of code 1, positive, in the shape of `scale_shape`."""
        return as_tensor(self.calibrated_scale)

    @property
    def step(self) -> Tensor:
        """The real distance between two neighbouring levels, in the shape of `scale`."""
        return self.scale * float(self.grid.step)

    def set_scale(self, scale: Any) -> None:
        """Sets a calibrated scale, and forgets a learned one."""
        self.calibrated_scale.assign(scale)

    def prepare(self, x: Tensor) -> Tensor:
        """The tensor that is rounded: `x`, or a function of `x` in some quantizers."""
        return x

    def fake_quantize(
        self, x: Tensor, rounding: Rounding, selection: Selection | None = None
    ) -> Tensor:
        """`scale * rounding(x / scale)` with the gradient of this quantizer.

        Args:
            x: the tensor.
            rounding: `(x / scale, grid) -> codes`.
            selection: `noise in steps -> which elements are quantized`; `None` for all.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement fake_quantize(x, rounding, selection)"
        )

    def training_options(self, x: Tensor) -> dict[str, Any]:
        """Arguments that `fake_quantize` gets only in training, such as random draws."""
        return {"selection": self._select(x)}

    def _fake_quantized(
        self, x: Tensor, rounding: Rounding, training: bool, rounds: bool = True
    ) -> Tensor:
        """The output of a call, for a given rounding; with `rounds` false it is clipped alone."""
        given = _as_float(x)
        x = self.prepare(given)
        options = self.training_options(x) if training else {}
        if not rounds:
            options = {**options, "selection": nothing_selected}
        quantized = self.fake_quantize(x, rounding, **options)
        if training and self._trained_options:
            quantized += ops.cast(self._trains_options(given), quantized.dtype)
        self._tapped(quantized)
        if training and self.pulls and self.discretization_loss > 0.0:
            distance = mean_squared_distance(x, quantized, self.extent(x))
            collect(self.discretization_loss * distance)
        return quantized

    def _tapped(self, quantized: Tensor) -> Tensor:
        if self.tap is not None:
            self.tap(quantized)
        return quantized

    def _select(self, x: Tensor) -> Selection | None:
        """Selects the elements to quantize in training, and stores the discretization error."""
        if self.replacement is None:
            return None
        measured = ops.stop_gradient(self._measured(x))
        self.last_error.assign(self.discretization_error(measured))
        share = as_tensor(self.replaced_share)
        if self.replacement == "error_first":
            return selection_by_error(share)
        return self._random_selection(x, share)

    def _measured(self, x: Tensor) -> Tensor:
        """The elements on which the discretization error is measured."""
        return x

    def _random_selection(self, x: Tensor, share: Tensor) -> Selection:
        if self.replacement == "persistent":
            return random_selection(x.shape, share, self.seed)
        return random_selection(ops.shape(x), share, self.seed_generator)

    def discretization_error(self, x: Tensor) -> Tensor:
        """`mean((clip(x) - x_hat)**2)`, a scalar; errors are in ranges of the grid."""
        grid, ratio = self.forward_grid(), ops.cast(x, "float32") / self.scale
        clipped = ops.clip(ratio, grid.qmin, grid.qmax)
        error = (clipped - nearest_codes(clipped, grid)) / (grid.qmax - grid.qmin)
        return ops.mean(ops.square(error))

    def codes(self, x: Tensor) -> Tensor:
        """The integer code of every element of `x` in inference, int32."""
        return self._codes(x, round_to_codes)

    def _codes(self, x: Tensor, rounding: Rounding) -> Tensor:
        ratio = ops.cast(self.prepare(x), "float32") / self.scale
        return ops.cast(rounding(ratio, self.forward_grid()), "int32")

    def position(self, x: Tensor) -> Tensor:
        """The position of values on the grid, in steps from its lowest code.

        Only `x` gets a gradient.
        """
        ratio = ops.cast(self.prepare(x), "float32") / ops.stop_gradient(self.scale)
        return (ratio - self.grid.qmin) / self.grid.step

    def extent(self, x: Tensor) -> Tensor:
        """The range of the grid for a tensor `x`, in real units; it broadcasts to `x`."""
        grid = self.forward_grid()
        return self.scale * ops.cast(grid.qmax - grid.qmin, "float32")

    def forward_grid(self) -> Grid:
        """The codes in the forward pass; if they are learned, the ends are tensors."""
        return self.grid

    def qparams(self) -> QuantParams:
        """The grid with the scale learned so far."""
        scale = np.asarray(ops.convert_to_numpy(self.scale), dtype=np.float32)
        return self.grid.qparams(scale, axis=-1 if scale.ndim else None)

    def compute_output_shape(self, input_shape: Any, *args: Any, **kwargs: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "grid": dataclasses.asdict(self._grid),
            "estimator": self.estimator.serialized(),
            "replacement": self.replacement,
            "replacement_order": self.replacement_order,
            "discretization_loss": self.discretization_loss,
            "seed": self.seed,
        }


def _as_float(x: Tensor) -> Tensor:
    """Integers, which a model's input may hold, as float32. Keras casts other floats itself."""
    whole = not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
    return ops.cast(x, "float32") if whole else x
