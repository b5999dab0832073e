"""`Tensor`: the one alias for what Keras computes with. Keras itself has no types."""

from __future__ import annotations

from typing import Any

Tensor = Any
"""A tensor of the backend, a variable, an array, or a symbolic tensor."""
