"""`PEGESchedule`: replaces full-precision elements by quantized ones inside `fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.callbacks.trained_model import check_loss_of_outer, trained_model
from keras_qat.quantizers import Quantizer
from keras_qat.quantizers.replacement import share_in_order
from keras_qat.schedules import Cosine, Exponential, Linear, Logarithmic, Schedule
from keras_qat.training.backend_state import synchronize

CURRICULA: dict[str, Callable[..., Schedule]] = {
    "logarithmic": Logarithmic,
    "linear": Linear,
    "exponential": Exponential,
    "cosine": Cosine,
}


class PEGESchedule(keras.callbacks.Callback):
    """Raises the share of quantized elements from 0 to 1, batch by batch.

    In every tensor whose quantizer has a `replacement`, training quantizes a share `p` of the
    elements, which the quantizer selects. The others are only clipped. With `K` batches in the run,
    `p` follows the curriculum from 0 before the first batch to exactly 1 after `end * K` batches.
    The rest of the run trains the network that is exported. Evaluation always quantizes all
    elements. The logarithmic curriculum is
    `p(k) = log(1 + kappa * k / (end * K)) / log(1 + kappa)` with `kappa = 9`: fast, then slow.

    With the order "global" of a config, every tensor has the share `p`. With "forward", tensor `t`
    of `T` has the share `clip(T * p - t, 0, 1)`: they are replaced one after the other, from the
    input on, the weights of a layer before its activations. "reverse" begins at the output. The
    mean share is `p` in every order.

    With a `final_strength`, the pull of weights to their codes rises in the second half of the run,
    along half a cosine, from the strength of the estimator to this one. Weights then settle on
    their codes. Without it they would flip between two codes until the last batch.

    At the end of an epoch the logs have the mean share as `replaced_share`, and the discretization
    error `mean((clip(x) - x_hat)**2)`, in ranges, of the last batch. `weight_discretization_error`
    is its mean over all weight tensors, `activation_discretization_error` its mean over all
    activations, for the first 4 examples. `errors` has it for each tensor and epoch. With
    `log_layers` the logs have it for each tensor too, as `discretization_error/<tensor>`.

    The share follows from the number of the batch, so a resumed run goes on where it was, with any
    optimizer. A model is saved with its share. A model saved in the middle of the curriculum cannot
    be exported before it is trained to the end.

    Source: the abstract of PEGE (arXiv 2509.00097) names the logarithmic curriculum; its formula
    and constants are our own. The orders: Smith and Islam 2026 (arXiv 2601.22660). The rising pull:
    Nagel et al. 2022 (arXiv 2203.11086), where it is a regularizer.

    Args:
        curriculum: "logarithmic", "linear", "exponential", "cosine", or any
            `keras_qat.schedules.Schedule` from 0 to 1 over batches.
        end: the share of the run over which a named curriculum rises.
        log_layers: whether the logs have the error of every tensor.
        final_strength: the last `strength` of the estimator "pege"; `None` keeps it constant.

    Raises:
        ValueError: an unknown curriculum, an `end` that is not above 0 and at most 1, or a negative
            strength. When `fit` starts: a model without replacement, a run of unknown length, or a
            `final_strength` for a model without the estimator "pege".

    >>> PEGESchedule(end=0.5).curriculum
    'logarithmic'
    """

    schedules_replacement = True
    kept_by_backup = ("errors",)

    def __init__(
        self,
        curriculum: str | Schedule = "logarithmic",
        end: float = 0.25,
        log_layers: bool = False,
        final_strength: float | None = None,
    ):
        super().__init__()
        if not isinstance(curriculum, Schedule) and curriculum not in CURRICULA:
            raise ValueError(
                f"The curriculum must be a Schedule or one of {sorted(CURRICULA)}. "
                f"Received: {curriculum!r}"
            )
        if not 0.0 < end <= 1.0:
            raise ValueError(f"The end must be above 0 and at most 1. Received: {end!r}")
        if final_strength is not None and not final_strength >= 0.0:
            raise ValueError(f"The final_strength must be 0 or above. Received: {final_strength!r}")
        self.curriculum = curriculum
        self.end = end
        self.log_layers = log_layers
        self.final_strength = final_strength
        self.errors: dict[str, list[float]] = {}
        self._quantizers: dict[str, Quantizer] = {}
        self._schedule: Any = None  # a Schedule, once training begins
        self._pulled: list[Quantizer] = []
        self._first = 0
        self._half = 0.0
        self._risen: float | None = None
        self._share: float | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        model, quantized = self.model, trained_model(self.model)
        self._quantizers = {} if quantized is None else quantized.replaced_quantizers
        if not self._quantizers:
            raise ValueError(
                "PEGESchedule needs a model that replaces its elements progressively, as "
                "keras_qat.quantize(model, keras_qat.PEGEConfig(...)) returns. Received: "
                f"{type(model).__name__} {model.name!r}"
            )
        if quantized is not None and quantized.pulled_kernels:
            check_loss_of_outer(model, quantized, "PEGESchedule")
        steps = self.params.get("steps")
        if not steps:
            raise ValueError(
                "PEGESchedule plans the whole run, and this dataset does not tell its length: "
                "pass steps_per_epoch to fit."
            )
        self._half = steps * self.params["epochs"] / 2
        self._schedule = self._planned(steps * self.params["epochs"])
        self._pulled = self._pulled_quantizers()
        self._share = self._risen = None
        self.errors = {name: [] for name in self._quantizers}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._first = epoch * self.params["steps"]
        self._replace(self._first)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._replace(self._first + batch)
        self._pull(self._first + batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._replace(self._first + self.params["steps"])
        synchronize(self.model)
        for name, quantizer in self._quantizers.items():
            self.errors[name].append(float(ops.convert_to_numpy(quantizer.last_error)))
        if logs is None:
            return
        logs["replaced_share"] = self._share
        for kind in ("weight", "activation"):
            found = [values[-1] for name, values in self.errors.items() if f"/{kind}s" in name]
            if found:
                logs[f"{kind}_discretization_error"] = float(np.mean(found))
        if self.log_layers:
            for name, values in self.errors.items():
                logs[f"discretization_error/{name}"] = values[-1]

    def _planned(self, batches: int) -> Schedule:
        if isinstance(self.curriculum, Schedule):
            return self.curriculum
        return CURRICULA[self.curriculum](0.0, 1.0, max(1, round(self.end * batches)))

    def _replace(self, batches: int) -> None:
        """Sets the shares for the next batch, after `batches` batches."""
        share = min(max(self._schedule(batches), 0.0), 1.0)
        if share == self._share:
            return
        synchronize(self.model)
        quantizers = list(dict.fromkeys(self._quantizers.values()))
        for place, quantizer in enumerate(quantizers):
            order = quantizer.replacement_order
            quantizer.replaced_share.assign(share_in_order(share, place, len(quantizers), order))
        self._share = share

    def _pulled_quantizers(self) -> list[Quantizer]:
        """The quantizers of weights whose pull rises."""
        if self.final_strength is None:
            return []
        pulled = [
            quantizer
            for name, quantizer in self._quantizers.items()
            if "/weights" in name and "strength" in quantizer.estimator_options
        ]
        if not pulled:
            raise ValueError(
                'PEGESchedule(final_strength=...) needs weights with estimator="pege", as in '
                f"keras_qat.PEGEConfig. Received: {type(self.model).__name__} {self.model.name!r}"
            )
        return pulled

    def _pull(self, batches: int) -> None:
        """Sets the strength of the pull for the next batch, after `batches` batches."""
        risen = max(0.0, batches - self._half)
        if self.final_strength is None or not self._pulled or risen == self._risen:
            return
        synchronize(self.model)
        for quantizer in self._pulled:
            start = quantizer.estimator.variables["strength"]
            strength = Cosine(start, self.final_strength, self._half)(risen)
            quantizer.estimator_options["strength"].assign(strength)
        self._risen = risen
