"""What pictures over batches share: histories of monitors, and colors by depth."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_COLORMAP = "viridis"
_BRIGHTEST = 0.9
"""The end of the colormap is too bright on white."""


def checked_batches(history: Any, monitor: type[Any], key: str) -> Mapping[str, Any]:
    """The history of a monitor, of a dict, or of the path of a JSON file.

    Args:
        history: what the user passed.
        monitor: the class of the monitor.
        key: a key that every tensor of its history has.

    Raises:
        ValueError: something else, or a history without records.
        FileNotFoundError: no such JSON file.
    """
    if isinstance(history, monitor):
        history = history.history
    elif isinstance(history, str | os.PathLike):
        path = pathlib.Path(history)
        try:
            history = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(
                f"{path} is not a JSON file of a {monitor.__name__}: {error}"
            ) from error
    fits = isinstance(history, Mapping) and {"batches", "tensors"} <= set(history)
    if not fits or any(key not in tensor for tensor in history["tensors"].values()):
        raise ValueError(
            f"history must be a {monitor.__name__}, its history or the path of its JSON file. "
            f"Received: {type(history).__name__}"
        )
    if not history["batches"]:
        raise ValueError(f"The history of the {monitor.__name__} is empty: fit with it first.")
    found: Mapping[str, Any] = history
    return found


def depth_colors(count: int) -> list[Any]:
    """As many colors as asked for, from the input to the output."""
    import matplotlib

    return list(matplotlib.colormaps[_COLORMAP](np.linspace(0.0, _BRIGHTEST, count)))


def label_depth(figure: Any, axes: Any) -> None:
    """A bar on the right that says what the colors mean."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colors = matplotlib.colormaps[_COLORMAP](np.linspace(0.0, _BRIGHTEST, 256))
    mapped = ScalarMappable(Normalize(0.0, 1.0), ListedColormap(colors))
    bar = figure.colorbar(mapped, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_ticks([0.0, 1.0], labels=["first layer", "last layer"], fontsize=8)
    bar.outline.set_visible(False)
