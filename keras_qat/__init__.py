"""Quantization-aware training for Keras 3, down to 1 bit, that deploys exactly."""
