"""Warnings before the first epoch of a `fit` that would not end as its user expects."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_qat.keras_graph import falls, nodes
from keras_qat.quantizers import PutsOnGrid
from keras_qat.training.fit_callbacks import given_callbacks

_COUNT_TIES = ("topkcategoricalaccuracy", "sparsetopkcategoricalaccuracy")


def warn_before_fit(model: Any, arguments: Mapping[str, Any], stacklevel: int = 3) -> None:
    """Warns if a quantized model lacks a callback, or if a callback may keep the wrong epoch.

    Args:
        model: a `QuantizedModel`.
        arguments: the arguments of `fit` by name.
        stacklevel: see `warnings.warn`.
    """
    callbacks = given_callbacks(arguments)
    validates = bool(arguments.get("validation_split")) or (
        arguments.get("validation_data") is not None
    )
    for message in (
        *_widths_without_schedule(model, callbacks),
        *_rate_of_an_interrupted_run(model, callbacks),
        *_replacement_without_schedule(model, callbacks),
        *_best_of_any_width(model, callbacks, validates),
    ):
        warnings.warn(message, stacklevel=stacklevel)


def _widths_without_schedule(model: Any, callbacks: list[Any]) -> Iterator[str]:
    if not _any(callbacks, "schedules_bit_widths") and not model.meets_targets():
        yield (
            f"{model.name!r} learns its bit widths, and nothing in this fit brings them to their "
            "targets: it will not deploy. Pass callbacks=[keras_qat.callbacks.GDNSQSchedule()]."
        )


def _rate_of_an_interrupted_run(model: Any, callbacks: list[Any]) -> Iterator[str]:
    """A checkpoint of a late epoch has the small learning rate of its schedule."""
    penalty, optimizer = model.bit_width_penalty, getattr(model, "optimizer", None)
    if penalty is None or optimizer is None or _any(callbacks, "schedules_bit_widths"):
        return
    plan, progress = penalty.kept_plan(), penalty.kept_progress()
    steps = int(ops.convert_to_numpy(optimizer.iterations))
    rate = float(ops.convert_to_numpy(optimizer.learning_rate))
    if rate < plan.learning_rate and plan.has_left(progress, rate, steps):
        yield (
            f"The learning rate of {model.name!r} is {rate:.3g}: a run of GDNSQSchedule that was "
            f"interrupted has left it so. It began at {plan.learning_rate:.3g}. To train at that "
            f"rate, set qmodel.optimizer.learning_rate = {plan.learning_rate:.3g}."
        )


def _replacement_without_schedule(model: Any, callbacks: list[Any]) -> Iterator[str]:
    quantizers = model.replaced_quantizers.values()
    if not quantizers or _any(callbacks, "schedules_replacement"):
        return
    share = min(float(ops.convert_to_numpy(each.replaced_share)) for each in quantizers)
    has_trained = any(float(ops.convert_to_numpy(each.last_error)) for each in quantizers)
    advice = "Pass callbacks=[keras_qat.callbacks.PEGESchedule()]."
    if share < 1.0:
        yield (
            f"{model.name!r} has replaced {100 * share:.0f} % of its elements by quantized ones, "
            f"and nothing in this fit replaces the rest: it will not deploy. {advice}"
        )
    elif not has_trained:
        yield (
            f"{model.name!r} replaces its elements progressively, and nothing in this fit does so: "
            f"all elements are quantized from the first batch on, as without PEGE. {advice}"
        )


def _best_of_any_width(model: Any, callbacks: list[Any], validates: bool) -> Iterator[str]:
    """Messages for callbacks whose best epoch may be one before all targets are met."""
    if not _any(callbacks, "schedules_bit_widths") or model.meets_targets():
        return
    for callback in callbacks:
        keeps = getattr(callback, "restore_best_weights", False)
        keeps = keeps or getattr(callback, "save_best_only", False)
        monitor = getattr(callback, "monitor", None)
        if not keeps or not isinstance(monitor, str) or monitor.endswith("_feasible"):
            continue
        metric = monitor if monitor.startswith("val_") or not validates else f"val_{monitor}"
        mode = "min" if falls(model, metric) else "max"
        yield (
            f"{type(callback).__name__} keeps the epoch with the best {monitor!r}, which may be "
            "one before GDNSQSchedule has brought all bit widths to their targets: that model does "
            f"not deploy. Use monitor='{metric}_feasible', mode={mode!r}, and put GDNSQSchedule "
            "before it."
        )


def warn_of_ties(model: Any) -> None:
    """Warns if a metric counts equal scores as hits, and rounding makes many of them equal."""
    found = [name for name in _compiled_metrics(model) if _plain(name) in _COUNT_TIES]
    if not found:
        return
    made_by = {id(tensor): node.operation for node in nodes(model) for tensor in node.outputs}
    rounded = [made_by.get(id(tensor)) for tensor in model.outputs]
    grids = [each.grid for each in rounded if isinstance(each, PutsOnGrid)]
    counts = [grid.qmax - grid.qmin + 1 for grid in grids]
    if counts:
        warnings.warn(
            f"The metric {found[0]!r} counts equal scores as hits, and evaluation rounds outputs "
            f"of {model.name!r} to {min(counts)} values, so that many are equal. Use "
            "keras_qat.metrics.TopKAccuracy instead, where equal scores rank by their class.",
            stacklevel=3,
        )


def _compiled_metrics(model: Any) -> Iterator[str]:
    """The names of the metrics that the user compiled the model with: of classes or functions."""
    compiled = getattr(model, "_compile_metrics", None)
    for given in ("_user_metrics", "_user_weighted_metrics"):
        for each in keras.tree.flatten(getattr(compiled, given, None)):
            if each is not None:
                named = getattr(each, "__name__", type(each).__name__)
                yield each if isinstance(each, str) else named


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _any(callbacks: list[Any], flag: str) -> bool:
    return any(getattr(callback, flag, False) for callback in callbacks)


def warn_of_outer_model(name: str, outer_name: str | None, lost: Sequence[str]) -> None:
    """Warns of the terms of the loss that a quantized model loses inside another model.

    Args:
        name: the name of the quantized model.
        outer_name: the name of the model that trains it.
        lost: the terms in words.
    """
    if lost:
        warnings.warn(
            f"The quantized model {name!r} trains inside {outer_name!r}, whose loss does not have "
            f"{' and '.join(lost)}. Quantize the whole model, and train that. Or write the loss "
            f"yourself, and take it from {name}.quantization_loss(loss).",
            stacklevel=3,
        )
