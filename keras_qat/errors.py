"""The exceptions for a model that cannot be quantized or lowered."""

DIVERGED = (
    "Training has diverged, or started from such values. Load an earlier state, and train on with "
    "keras_qat.callbacks.DivergenceMonitor()."
)


class LoweringError(ValueError):
    """A trained model has no exact integer form. The message says where and why."""


class UnsupportedLayerError(NotImplementedError):
    """Layers of a model have no rule. The message names all of them, and what to do."""
