"""Layers without weights of their own, in integers: one small function each."""
