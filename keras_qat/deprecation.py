"""The warning for public names that will be removed."""

from __future__ import annotations

import warnings


def warn_deprecated(old: str, instead: str) -> None:
    """Warns the caller's caller that a public name will be removed.

    Args:
        old: the name, as users write it.
        instead: what to write instead.

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_deprecated("old_name", "new_name")
    >>> str(caught[0].message)
    'old_name is deprecated and will be removed: use new_name.'
    """
    message = f"{old} is deprecated and will be removed: use {instead}."
    warnings.warn(message, DeprecationWarning, stacklevel=3)
