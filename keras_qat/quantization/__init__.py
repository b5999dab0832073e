"""`quantize` makes a quantized model from a float model; `plan` only says what it would do."""
