"""Constraints that keep a quantizer's parameters in their valid range."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_qat")
class AtLeast(keras.constraints.Constraint):
    """Keeps a variable at or above `minimum`.

    >>> [float(v) for v in AtLeast(0.5)(keras.ops.array([0.1, 0.7]))]
    [0.5, 0.699999988079071]
    """

    def __init__(self, minimum: float):
        self.minimum = minimum

    def __call__(self, w: Any) -> Any:
        return ops.maximum(w, self.minimum)

    def get_config(self) -> dict[str, Any]:
        return {"minimum": self.minimum}


@keras.saving.register_keras_serializable(package="keras_qat")
class Within(keras.constraints.Constraint):
    """Keeps a variable from `minimum` to `maximum`.

    >>> [float(v) for v in Within(0.5, 2.0)(keras.ops.array([0.25, 1.0, 9.0]))]
    [0.5, 1.0, 2.0]
    """

    def __init__(self, minimum: float, maximum: float):
        self.minimum = minimum
        self.maximum = maximum

    def __call__(self, w: Any) -> Any:
        return ops.clip(w, self.minimum, self.maximum)

    def get_config(self) -> dict[str, Any]:
        return {"minimum": self.minimum, "maximum": self.maximum}


@keras.saving.register_keras_serializable(package="keras_qat")
class AtMost(keras.constraints.Constraint):
    """Keeps a variable at or below `maximum`.

    >>> [float(v) for v in AtMost(0.5)(keras.ops.array([0.1, 0.7]))]
    [0.10000000149011612, 0.5]
    """

    def __init__(self, maximum: float):
        self.maximum = maximum

    def __call__(self, w: Any) -> Any:
        return ops.minimum(w, self.maximum)

    def get_config(self) -> dict[str, Any]:
        return {"maximum": self.maximum}
