"""The quantized model that a `fit` trains, by itself or inside another model."""

from __future__ import annotations

from typing import Any

from keras_qat.keras_graph import with_inner_layers
from keras_qat.model import QuantizedModel
from keras_qat.training.outer_models import takes_quantization_loss


def trained_model(model: Any) -> QuantizedModel | None:
    """The model of a `fit` if it is quantized, or else the only quantized model inside it."""
    if isinstance(model, QuantizedModel):
        return model
    found = [each for each in with_inner_layers(model) if isinstance(each, QuantizedModel)]
    return found[0] if len(found) == 1 else None


def check_loss_of_outer(model: Any, inner: QuantizedModel, callback: str) -> None:
    """Raises ValueError if the loss of an outer model lacks the terms of the quantized model."""
    if model is inner or takes_quantization_loss(model):
        return
    raise ValueError(
        f"{callback} found the quantized model {inner.name!r} inside {model.name!r} "
        f"({type(model).__name__}), whose loss lacks the terms of quantization. In its train_step "
        f"or compute_loss, take the loss from {inner.name}.quantization_loss(loss). "
        f"Received: the class {type(model).__name__}, which never calls quantization_loss"
    )
