"""The errors of this package that a program may want to tell apart."""


class LoweringError(ValueError):
    """A trained model that has no exact integer form; the message says where and why."""


class UnsupportedLayerError(NotImplementedError):
    """A model with layers that have no rule; the message names them all and the ways out."""
