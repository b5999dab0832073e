"""From a float model to a quantized one: `quantize`, and `plan`, which only tells."""
