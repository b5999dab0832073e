"""Optimizers that Keras does not have."""

from keras_qat.optimizers.radam import RAdam

__all__ = ["RAdam"]
