"""Passes over a model's graph, each a function from one model to a new one."""
