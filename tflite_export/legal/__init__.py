"""Turns a learned graph into one that a target computes exactly and that a file can hold."""
