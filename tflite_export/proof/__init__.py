"""Proves a file: its bytes and the runtimes against the graph, the graph against the model."""
