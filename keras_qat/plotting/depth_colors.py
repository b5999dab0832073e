"""Colors of tensors by their depth in the network."""

from __future__ import annotations

from typing import Any

import numpy as np

_COLORMAP = "viridis"
_BRIGHTEST = 0.9
"""The end of the colormap is too bright on white."""


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
