"""`DivergenceMonitor`: notices a run that diverged, and names the place."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.model import QuantizedModel
from keras_qat.training.backend_state import synchronize

ACTIONS = ("raise", "stop", "warn")
_COLLAPSED, _EXPLODED = 2.0**-8, 2.0**20
_LISTED = 5
_MOST_BEYOND = 0.5


class TrainingDivergedError(RuntimeError):
    """Training diverged. The message names the loss, the layers and the quantizers."""


class DivergenceMonitor(keras.callbacks.Callback):
    """Ends a training that diverged, and names the loss, the quantizers and the layers.

    A quantizer can hide divergence: a grid may turn NaN into a plain number, and a network with a
    collapsed or exploded step has a finite loss that does not move. At the end of every epoch, and
    in mid-epoch after every `every` batches, this callback finds

    * a loss or a validation loss that is not finite,
    * variables of quantizers and layers that are not finite,
    * collapsed steps, below `2**-8` of their value at the start of `fit` (the scales of LSQ end at
      `2**-10` of the calibrated scales),
    * exploded steps, above `2**20` times their value at the start of `fit` (learned widths of 16
      bits make steps `2**15` times as wide on their way to one bit),
    * kernels with more than half of their weights beyond the ends of their grid, by half a step or
      more, if there were fewer at the start of `fit` (STE's scales do not follow the weights).

    The list `problems` holds the findings as text. The model is not changed: it has the weights of
    the last batch. Load the weights of a checkpoint instead, from `keras.callbacks.ModelCheckpoint`
    or `keras_qat.callbacks.Backup`.

    Args:
        action: "stop" warns and ends `fit` after the batch or epoch, "raise" raises
            `TrainingDivergedError`, "warn" warns and goes on.
        every: the number of batches between two checks in mid-epoch. A check waits for the batch
            and reads all variables. `None` checks only at the end of epochs, at no cost per batch.

    Raises:
        ValueError: no such action, or an `every` below 1. When `fit` starts: a model that is not
            quantized.

    >>> DivergenceMonitor("raise", every=100).problems
    []
    """

    kept_by_backup = ("problems", "_first_steps", "_first_beyond", "_told", "_seen")

    def __init__(self, action: str = "stop", every: int | None = None):
        super().__init__()
        if action not in ACTIONS:
            raise ValueError(f"The action must be one of {ACTIONS}. Received: {action!r}")
        if every is not None and (
            isinstance(every, bool) or not isinstance(every, int) or every < 1
        ):
            raise ValueError(
                f"every must be a whole number of batches from 1 on, or None. Received: {every!r}"
            )
        self.action = action
        self.every = every
        self.problems: list[str] = []
        self._first_steps: dict[str, np.ndarray] = {}
        self._first_beyond: dict[str, float] = {}
        self._told: set[str] = set()
        self._epoch = self._seen = 0
        if every is not None:  # as a method of the class, it would make Keras read logs every batch
            self.on_train_batch_end = self._look_in_mid_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        if not isinstance(self.model, QuantizedModel):
            raise ValueError(
                "DivergenceMonitor needs a model that keras_qat.quantize returned. Received: "
                f"{type(self.model).__name__} {self.model.name!r}"
            )
        self.problems, self._first_steps, self._seen, self._told = [], {}, 0, set()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        if not self._first_steps:  # BackupAndRestore restores a killed run in on_train_begin
            synchronize(self.model)
            self._first_steps = dict(self._steps())
            self._first_beyond = dict(self._beyond())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._look(logs, f"after epoch {epoch + 1}")

    def _look_in_mid_epoch(self, batch: int, logs: Any = None) -> None:
        before, self._seen = self._seen, batch + 1
        if self.every is not None and self._seen // self.every > (
            0 if self._seen < before else before // self.every
        ):
            self._look(logs, f"in epoch {self._epoch + 1}, after batch {self._seen}")

    def _look(self, logs: Any, when: str) -> None:
        synchronize(self.model)
        found = {**_losses(logs or {}), **self._bad_variables(), **self._bad_steps()}
        found |= self._bad_kernels()
        self.problems = list(found.values())
        if found.keys() <= self._told:
            return
        self._told |= found.keys()
        message = self._message(when)
        if self.action == "raise":
            raise TrainingDivergedError(message)
        warnings.warn(message, stacklevel=2)
        if self.action == "stop":
            self.model.stop_training = True

    def _message(self, when: str) -> str:
        left = len(self.problems) - _LISTED
        listed = "; ".join(self.problems[:_LISTED]) + (f"; and {left} more" if left > 0 else "")
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        return (
            f"The training of {self.model.name!r} diverged, {when}: {listed}. Lower the learning "
            f"rate (it is {rate:.3g}), let it warm up, or clip gradients (clipnorm=1.0 of the "
            "optimizer), and start again from the float model or a checkpoint."
        )

    def _steps(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, quantizer in self.model.named_quantizers.items():
            yield name, ops.convert_to_numpy(quantizer.step)

    def _beyond(self) -> Iterator[tuple[str, float]]:
        """The share of each kernel that is beyond its grid."""
        for name, site in self.model.quantizer_sites().items():
            if site.kernel is not None:
                yield name, site.quantizer.share_beyond(site.kernel.channels_last_kernel())

    def _bad_kernels(self) -> dict[str, str]:
        quantizers = self.model.named_quantizers
        return {
            f"{name} beyond": (
                f"{share:.0%} of the weights of {name} ({type(quantizers[name]).__name__}) are "
                f"beyond their grid ({self._first_beyond[name]:.0%} at the start)"
            )
            for name, share in self._beyond()
            if share > _MOST_BEYOND >= self._first_beyond[name]
        }

    def _bad_variables(self) -> dict[str, str]:
        found, of_quantizers = {}, set()
        for name, quantizer in self.model.named_quantizers.items():
            of_quantizers |= {id(variable) for variable in quantizer.variables}
            found[f"{name} ({type(quantizer).__name__})"] = quantizer.variables
        for layer in self.model.layers:
            own = [each for each in layer.variables if id(each) not in of_quantizers]
            found[f"layer {layer.name!r}"] = own
        bad = {
            owner: ", ".join(each.name for each in variables if not _is_finite(each))
            for owner, variables in found.items()
        }
        return {
            f"{owner} {names}": f"variables of {owner} are not finite: {names}"
            for owner, names in bad.items()
            if names
        }

    def _bad_steps(self) -> dict[str, str]:
        found, quantizers = {}, self.model.named_quantizers
        for name, step in self._steps():
            ratio = np.ravel(step / self._first_steps[name])
            for what, bad, worst in (
                ("collapsed", ratio < _COLLAPSED, np.min),
                ("exploded", ratio > _EXPLODED, np.max),
            ):
                if np.any(bad):
                    share = f" in {bad.sum()} of {bad.size} channels" if bad.size > 1 else ""
                    found[f"{name} {what}"] = (
                        f"the step of {name} ({type(quantizers[name]).__name__}) {what}{share}, to "
                        f"{worst(ratio):.2g} of its value at the start"
                    )
        return found


def _losses(logs: dict[str, Any]) -> dict[str, str]:
    return {
        name: f"the {name} is {float(logs[name])}"
        for name in ("loss", "val_loss")
        if name in logs and not math.isfinite(logs[name])
    }


def _is_finite(variable: Any) -> bool:
    values = ops.convert_to_numpy(variable)
    return not np.issubdtype(values.dtype, np.floating) or bool(np.all(np.isfinite(values)))
