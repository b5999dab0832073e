"""The arena of TensorFlow Lite Micro that a file takes, by whose kernels run it."""
