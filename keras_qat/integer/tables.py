"""`Table`: what has rows shows them in a notebook, and gives them to pandas, CSV and LaTeX."""

from __future__ import annotations

import csv
import html
import io
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


class Table:
    """Something with a table: a head, and rows of texts, numbers and `None`.

    A subclass states `table_head` and `table_rows`.
    """

    @property
    def table_head(self) -> tuple[str, ...]:
        """The names of the columns."""
        raise NotImplementedError

    @property
    def table_rows(self) -> Sequence[tuple[Any, ...]]:
        """The rows; numbers are numbers, and `None` is an empty cell."""
        raise NotImplementedError

    def to_dataframe(self) -> Any:
        """The rows as a `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_dataframe needs pandas: pip install pandas") from error
        return pandas.DataFrame(list(self.table_rows), columns=list(self.table_head))

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The rows as CSV, with a head; also written to `path` if that is given."""
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([self.table_head, *self.table_rows])
        return _written(stream.getvalue(), path)

    def to_latex(self, path: str | os.PathLike[str] | None = None) -> str:
        """The rows as a `tabular` of LaTeX with the rules of booktabs; also written to `path`."""
        rows = self.table_rows
        sides = "".join(
            "r" if _is_of_numbers(column) else "l" for column in zip(*rows, strict=True)
        )
        lines = [
            f"\\begin{{tabular}}{{{sides or 'l' * len(self.table_head)}}}",
            r"\toprule",
            _latex_row(self.table_head),
            r"\midrule",
            *map(_latex_row, rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return _written("\n".join(lines) + "\n", path)

    def html_table(self) -> str:
        """The rows as a table of HTML."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.table_head)
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(_text(cell))}</td>' for cell in row)}</tr>"
            for row in self.table_rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.html_table()


def terminal_width() -> int:
    """How wide the terminal is: as `COLUMNS` says, else as it says itself, else 80."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def html_lines(lines: Sequence[str]) -> str:
    """Lines of text as HTML, as they stand.

    >>> html_lines(["a < b", "c"])
    '<pre>a &lt; b\\nc</pre>'
    """
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>"


def _is_of_numbers(column: Sequence[Any]) -> bool:
    return any(cell is not None for cell in column) and all(
        cell is None or isinstance(cell, (int, float)) for cell in column
    )


def _latex_row(cells: Sequence[Any]) -> str:
    texts = ("".join(_LATEX.get(sign, sign) for sign in _text(cell)) for cell in cells)
    return f"{' & '.join(texts)} \\\\"


def _text(cell: Any) -> str:
    """A cell as text: thousands apart, numbers with four digits.

    >>> _text(12345), _text(0.25), _text(None), _text("conv")
    ('12,345', '0.25', '', 'conv')
    """
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell)
    return (
        f"{cell:,}"
        if isinstance(cell, int)
        else f"{cell:.4g}"
        if isinstance(cell, float)
        else str(cell)
    )


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        pathlib.Path(path).write_text(text, encoding="utf-8")
    return text
