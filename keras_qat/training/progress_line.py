"""The progress line of a `fit`: what the user compiled, and how far learned bit widths are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_qat.training.fit_callbacks import add_callback, given_callbacks

_MEANS = ("mean_weight_bits", "mean_activation_bits")
_TERMS = frozenset(
    {
        *_MEANS,
        *("max_weight_bits", "max_activation_bits", "weight_violation", "activation_violation"),
        *("task_loss", "discretization_loss"),
    }
)
"""The terms of the training loss. `History`, `CSVLogger` and `TensorBoard` have all of them."""
_OF_SCHEDULES = frozenset(
    {
        *("assisted_widths", "refit_octaves", "replaced_share"),
        *("weight_discretization_error", "activation_discretization_error"),
    }
)
"""What schedules log, beside metrics of feasible models and errors of single tensors."""


class ProgressLine(keras.callbacks.ProgbarLogger):
    """The progress bar of Keras without the terms of the training loss and the logs of schedules.

    With learned bit widths it shows `mean_bits`, the mean of `mean_weight_bits` and
    `mean_activation_bits`, and at the end of an epoch `targets_met`, the share of widths that have
    met their targets. A metric that the user compiled stays under any name.
    """

    async_safe = True
    """It reads logs alone. Where Keras does so in another thread (JAX), no step waits for it."""

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._widths = self.model.learned_widths

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, self._shown(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        shown = self._shown(logs)
        if self._widths:
            shown["targets_met"] = float(np.mean([each.meets_target() for each in self._widths]))
        super().on_epoch_end(epoch, shown)

    def _shown(self, logs: Mapping[str, Any] | None) -> dict[str, Any]:
        logs = logs or {}
        own = self._compiled()
        shown = {
            name: value
            for name, value in logs.items()
            if name.removeprefix("val_") in own or not _stays_in_logs(name)
        }
        means = [float(logs[name]) for name in _MEANS if name in logs]
        if means and self._widths:
            shown["mean_bits"] = float(np.mean(means))
        return shown

    def _compiled(self) -> set[str]:
        """The names of the metrics of the user."""
        terms = self.model.term_logs
        own = [each for each in self.model.metrics if all(each is not term for term in terms)]
        return {one.name for each in own for one in getattr(each, "metrics", [each])}


def _stays_in_logs(name: str) -> bool:
    """Whether an entry is of this package, and shown by logs alone."""
    single = name.endswith("_feasible") or name.startswith("discretization_error/")
    return single or name in _TERMS or name in _OF_SCHEDULES


def add_progress_line(model: Any, arguments: dict[str, Any]) -> None:
    """Gives a `fit` this progress line, if it shows one and the user has given none.

    Args:
        model: the quantized model that trains.
        arguments: the arguments of `fit` by name; they are changed.
    """
    given = arguments.get("callbacks")
    if isinstance(given, keras.callbacks.CallbackList) or arguments.get("verbose", "auto") == 0:
        return
    kinds = keras.callbacks.ProgbarLogger
    if not any(isinstance(each, kinds) for each in given_callbacks(arguments)):
        add_callback(model, arguments, ProgressLine(), first=False)
