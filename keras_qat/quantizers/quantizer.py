"""`Quantizer`: the layer that holds a grid, its scale, and the path of its gradient."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat import estimators
from keras_qat.integer.qparams import QuantParams
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.fake_quantize import Rounding
from keras_qat.quantizers.grid import Grid, nearest_codes, round_to_codes
from keras_qat.quantizers.replacement import (
    Selection,
    check_replacement,
    random_selection,
    selection_by_error,
)

Tensor = Any

_SEED_STATE = "seed_state"


class Quantizer(keras.layers.Layer):
    """What quantizers of weights and of activations share: a grid, its scale, a gradient.

    A quantizer of one's own is a `WeightQuantizer` or an `ActivationQuantizer`: it implements
    `fake_quantize(x, rounding, selection)` with a gradient, and may add variables. All variables
    are float32 under every dtype policy. The law that every quantizer keeps, exactly:
    `codes(x) * scale == call(x)`.

    Args:
        grid: the integer codes, a `Grid` (or its fields as a dict).
        estimator: of the gradient through rounding, an `Estimator` or its name.
        replacement: how the elements are chosen that training quantizes while `replaced_share` is
            below 1: "random" (fresh in every call, those of a batch independent in pairs),
            "persistent" (once chosen, always) or "error_first" (those near their codes); `None`
            quantizes all, always.
        seed: of what is drawn in training.

    Raises:
        ValueError: no such estimator or replacement.
    """

    def __init__(
        self,
        grid: Grid | dict[str, int],
        estimator: estimators.Estimator | str | dict[str, Any] = "ste",
        replacement: str | None = None,
        seed: int | None = None,
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
        self.seed_generator: keras.random.SeedGenerator | None = None
        if replacement == "random":
            self._draw_from_seed()
        self._grid = Grid(**grid) if isinstance(grid, dict) else grid
        self.supports_masking = True
        self.tap: Callable[[Tensor], None] | None = None  # sees what every call returns

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
        """The shape of the scale of such inputs: `()`, one number for the tensor."""
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
        """The real value of code 1, positive, in the shape of `scale_shape`."""
        return as_tensor(self.calibrated_scale)

    @property
    def step(self) -> Tensor:
        """The real value between two codes, in the shape of `scale`."""
        return self.scale * float(self.grid.step)

    def set_scale(self, scale: Any) -> None:
        """Starts over from a calibrated scale."""
        self.calibrated_scale.assign(scale)

    def prepare(self, x: Tensor) -> Tensor:
        """What is rounded: `x` itself, unless a quantizer transforms it first."""
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
        """What `fake_quantize` is told in a call of training alone, such as what is drawn."""
        return {"selection": self._select(x)}

    def _fake_quantized(self, x: Tensor, rounding: Rounding, training: bool) -> Tensor:
        """What a call on `x` returns, once its rounding is known."""
        x = self.prepare(_as_float(x))
        options = self.training_options(x) if training else {}
        quantized = self.fake_quantize(x, rounding, **options)
        if self.tap is not None:
            self.tap(quantized)
        return quantized

    def _select(self, x: Tensor) -> Selection | None:
        """Chooses the elements to quantize in a call of training, and notes the error."""
        if self.replacement is None:
            return None
        measured = ops.stop_gradient(self._measured(x))
        self.last_error.assign(self.discretization_error(measured))
        share = as_tensor(self.replaced_share)
        if self.replacement == "error_first":
            return selection_by_error(share)
        return self._random_selection(x, share)

    def _measured(self, x: Tensor) -> Tensor:
        """What the error is measured on."""
        return x

    def _random_selection(self, x: Tensor, share: Tensor) -> Selection:
        if self.replacement == "persistent":
            return random_selection(x.shape, share, self.seed)
        return random_selection(ops.shape(x), share, self.seed_generator)

    def discretization_error(self, x: Tensor) -> Tensor:
        """`mean((clip(x) - x_hat)**2)` in ranges, from the lowest to the highest code: a scalar."""
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
        """Where values lie on the grid, in steps from its lowest code; only `x` has a gradient."""
        ratio = ops.cast(self.prepare(x), "float32") / ops.stop_gradient(self.scale)
        return (ratio - self.grid.qmin) / self.grid.step

    def forward_grid(self) -> Grid:
        """The codes inside the forward pass: where they are learned, the ends are tensors."""
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
            "seed": self.seed,
        }


def _as_float(x: Tensor) -> Tensor:
    """Whole numbers, as a model's input may have, as float32; Keras casts other floats itself."""
    whole = not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
    return ops.cast(x, "float32") if whole else x
