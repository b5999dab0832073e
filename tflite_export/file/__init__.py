"""A `.tflite` file: what it says by name, its bytes, and the runtimes that run it."""
