"""Keras privates: batches of a `fit` that are read and not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def skip_batches(model: Any, before: int, batches: int, when_done: Callable[[Any], None]) -> None:
    """Lets `fit` read batches without training on them. It counts the ones of its epoch.

    Args:
        model: the model, whose `fit` has begun an epoch.
        before: batches that are read before the first one of the epoch.
        batches: batches of the epoch.
        when_done: is called with the last batch that is skipped.
    """
    step, left = model.train_function, batches

    def read(*arguments: Any) -> Any:
        nonlocal before, left
        iterator = arguments[-1]
        while before > 0:
            data = next(iterator)
            before -= 1
        at_once = min(model.steps_per_execution, left)
        for _ in range(at_once):
            data = next(iterator)
        left -= at_once
        if left <= 0:
            model.train_function = step
            when_done(data)
        if not at_once:
            return step(*arguments)
        return {} if len(arguments) == 1 else ({}, arguments[0])  # JAX passes its state on

    model.train_function = read


def build_metrics(model: Any, data: Any) -> None:
    """Creates the variables of metrics from a batch. TensorFlow does in the first step."""
    model._symbolic_build(data_batch=data)


def start_at(model: Any, epoch: int | None) -> None:
    """Lets the running `fit` begin at an epoch; `None` for the one that it was given."""
    model._initial_epoch = epoch
