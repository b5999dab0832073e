"""Names that nothing has yet."""

from __future__ import annotations


def unused_name(name: str, taken: set[str]) -> str:
    """The name, or `name_1`, `name_2`, ... if it is taken. The result is added to `taken`.

    >>> taken = {"conv_relu"}
    >>> unused_name("conv_relu", taken), unused_name("conv_relu", taken)
    ('conv_relu_1', 'conv_relu_2')
    """
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate
