"""Tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> list[str]:
    """Lines of a table with left-aligned columns, each as wide as its widest cell.

    >>> print("\\n".join(text_table(("bits", "layer"), [(2, "conv"), (8, "dense")])))
    bits  layer
    ----  -----
    2     conv
    8     dense
    """
    cells = [head, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
