"""From a learned graph to one that a target computes exactly, and that a file can hold."""
