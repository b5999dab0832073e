"""Writes an integer graph as a `.tflite` file and proves the file against the runtimes."""
