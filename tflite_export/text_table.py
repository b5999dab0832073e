"""Text for a terminal: tables and sentences that are no wider than it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from keras_qat.integer.tables import terminal_width

_NARROWEST = 5
_GAP = 2


def text_table(
    head: tuple[str, ...], rows: Sequence[tuple[object, ...]], width: int | None = None
) -> list[str]:
    """Lines of a table with left-aligned columns, each as wide as its widest cell.

    Where that is wider than the terminal, cells of the widest columns go over several lines.

    Args:
        head: the names of the columns.
        rows: the cells.
        width: the most letters of a line; by default as many as the terminal is wide.

    >>> print("\\n".join(text_table(("bits", "layer"), [(2, "conv"), (8, "dense")])))
    bits  layer
    ----  -----
    2     conv
    8     dense
    >>> print("\\n".join(text_table(("bits", "layer"), [(2, "block_1_expand")], width=14)))
    bits  layer
    ----  --------
    2     block_1_
          expand
    """
    cells = [head, *(tuple(map(str, row)) for row in rows)]
    widths = _fitted([max(map(len, column)) for column in zip(*cells, strict=True)], width)
    lines = [_row(row, widths) for row in cells]
    rule = "  ".join("-" * each for each in widths)
    return [*lines[0], rule, *(line for row in lines[1:] for line in row)]


def fitted_lines(lines: Iterable[str], width: int | None = None) -> list[str]:
    """The lines, and of a longer one its words over several lines, set in by two.

    >>> fitted_lines(["one two three", "four"], width=8)
    ['one two', '  three', 'four']
    """
    most = terminal_width() if width is None else width
    found: list[str] = []
    for line in lines:
        wrap = len(line) > most
        found += (
            textwrap.wrap(line, most, subsequent_indent="  ", break_on_hyphens=False)
            if wrap
            else [line]
        )
    return found


def _fitted(widths: list[int], width: int | None) -> list[int]:
    """The widths of columns that fit side by side; the widest ones give way."""
    room = (terminal_width() if width is None else width) - _GAP * (len(widths) - 1)
    widths = list(widths)
    while sum(widths) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _row(row: tuple[str, ...], widths: list[int]) -> list[str]:
    folded = [_folded(cell, width) for cell, width in zip(row, widths, strict=True)]
    height = max(map(len, folded))
    filled = [each + [""] * (height - len(each)) for each in folded]
    return [
        (" " * _GAP).join(map(str.ljust, line, widths)).rstrip()
        for line in zip(*filled, strict=True)
    ]


def _folded(cell: str, width: int) -> list[str]:
    """A cell over lines: after a space, `_`, `/`, `,` or `-` where there is one, else anywhere."""
    lines = []
    while len(cell) > width:
        ends = [place + 1 for place in range(width // 3, width) if cell[place] in " _/,-"]
        if cell[width] == " ":
            ends.append(width)
        end = max(ends, default=width)
        lines.append(cell[:end].rstrip())
        cell = cell[end:].lstrip()
    return [*lines, cell]
