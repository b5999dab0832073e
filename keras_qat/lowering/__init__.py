"""Lowers layers without weights: one small function for each layer type."""
