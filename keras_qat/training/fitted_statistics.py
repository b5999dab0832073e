"""Whether and on what `fit` of a quantized model re-estimates BatchNormalization."""

from __future__ import annotations

import warnings
from typing import Any

from keras_qat.training.batch_normalization import (
    BatchNormReestimation,
    ReestimationInFit,
    trained_normalizations,
)
from keras_qat.training.fit_callbacks import add_callback, given_callbacks
from keras_qat.training.pipeline_sample import sample_of_pipeline

MOST_BITS = 2
"""At more bits re-estimation changes accuracy by less than its spread over seeds."""


def add_reestimation(
    model: Any, arguments: dict[str, Any], wanted: bool | None
) -> ReestimationInFit | None:
    """Adds a re-estimation in front of the callbacks of a `fit`, if it is wanted.

    Args:
        model: a `QuantizedModel`.
        arguments: the arguments of `fit` by name; they are changed.
        wanted: see `QuantizedModel.fit`.

    Returns: the callback, whose `finish` is to be called after `fit`; `None` for none.
    """
    callbacks = given_callbacks(arguments)
    if wanted is None:
        has_own = any(isinstance(each, BatchNormReestimation) for each in callbacks)
        low_bits = any(each.bits <= MOST_BITS for each in model.quantizers)
        wanted = low_bits and not has_own and not model.trains_as_target
    if not wanted or not trained_normalizations(model):
        return None
    if type(arguments.get("x")).__name__ == "DistributedDataset":
        warnings.warn(
            f"This fit of {model.name!r} would re-estimate the statistics of BatchNormalization, "
            "but a DistributedDataset cannot be sampled. "
            "Pass callbacks=[keras_qat.callbacks.BatchNormReestimation(x)] with a few thousand "
            "training samples, or reestimate=False.",
            stacklevel=3,
        )
        return None
    batches = sample_of_pipeline(model, arguments)
    if not batches:
        return None
    reestimation = ReestimationInFit(batches)
    add_callback(model, arguments, reestimation, first=True)
    return reestimation
