"""The overrides of a user: patterns for layer names, and a config or `None` for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from keras_qat.config import QuantizationConfig

Overrides = Mapping[str, QuantizationConfig | str | dict[str, Any] | None]


def check_overrides(overrides: Any) -> dict[str, Any]:
    """The overrides as a dict; raises ValueError unless they are a mapping or `None`.

    >>> check_overrides(None)
    {}
    """
    if overrides is None:
        return {}
    if not isinstance(overrides, Mapping):
        raise ValueError(
            "Overrides are a dict from regular expressions for layer names to configs, or None "
            f"for float, such as {{'head': None}}. Received: {overrides!r}"
        )
    return dict(overrides)


def stays_float(name: str, overrides: Overrides) -> bool:
    """Whether the first override that names a layer leaves it in float."""
    found = (value for pattern, value in overrides.items() if compiled(pattern).fullmatch(name))
    return next(found, ...) is None


def compiled(pattern: str) -> re.Pattern[str]:
    """The compiled pattern of an override; raises ValueError for no regular expression."""
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"An override's key must be a regular expression for layer names ({error}). "
            f"Received: {pattern!r}"
        ) from error
