"""Progress of long work, on a terminal; elsewhere nothing is shown."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Advance = Callable[[int], None]

_CURRENT: list[Any] = []
"""The display of the outermost stage, which shows the stages inside it too; empty between them."""


@contextlib.contextmanager
def stage(text: str, total: int | None = None) -> Iterator[Advance]:
    """Shows a line with the time while the context runs, and with a bar if the total is known.

    Args:
        text: what is done.
        total: the number of its steps.

    Yields:
        A function that takes the number of steps that are done since its last call.
    """
    if not _is_watched():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    if _CURRENT:
        (progress,) = _CURRENT
        task = progress.add_task(text, total=total)
        progress.refresh()
        try:
            yield lambda count: progress.advance(task, count)
        finally:
            progress.remove_task(task)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
    )
    console = Console(file=sys.stderr, force_terminal=True)
    with Progress(*columns, console=console, transient=True) as progress:
        _CURRENT.append(progress)
        try:
            task = progress.add_task(text, total=total)
            progress.refresh()
            yield lambda count: progress.advance(task, count)
        finally:
            _CURRENT.clear()


class Countable(Protocol[T_co]):
    """Items whose number is known."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...


def tracked(items: Countable[T], text: str) -> Iterator[T]:
    """Yields the items, while a bar shows how many have been taken.

    >>> list(tracked([1, 2], "counting"))
    [1, 2]
    """
    with stage(text, len(items)) as advance:
        for item in items:
            yield item
            advance(1)


def _is_watched() -> bool:
    """Whether standard error is a terminal."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False
