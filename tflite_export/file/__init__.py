"""A `.tflite` file: its content by name, its bytes, and the runtimes that run it."""
