"""What all pictures share: the class of a figure, and colors."""

from __future__ import annotations

from typing import Any

COLORS = {"weights": "tab:blue", "activations": "tab:orange"}
MARKED = "tab:red"


def figure_class(caller: str) -> Any:
    """The class of matplotlib's figures, which needs no display.

    Raises:
        ImportError: matplotlib is not installed. The message names the caller.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'{caller} needs matplotlib: pip install "keras_qat[plots]"') from error
    return Figure
