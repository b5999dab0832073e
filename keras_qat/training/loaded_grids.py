"""Warns of weights that were saved for grids of other bits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from keras_qat.quantizers import Quantizer

_LISTED = 3


def warn_of_other_grids(model_name: str, quantizers: Mapping[str, Quantizer]) -> None:
    """Warns if quantizers have loaded the weights of grids that are not theirs.

    Shapes of variables do not tell bits apart, so Keras loads them without a word. Files of earlier
    releases do not name their grids.

    Args:
        model_name: the name of the model that has loaded weights.
        quantizers: its quantizers by name.
    """
    wrong = [
        f"{name!r} ({_described(each.loaded_grid)} in the file, {_described(each.kept_grid)} here)"
        for name, each in quantizers.items()
        if each.loaded_grid and each.kept_grid and each.loaded_grid != each.kept_grid
    ]
    if not wrong:
        return
    more = f" and {len(wrong) - _LISTED} more" if wrong[_LISTED:] else ""
    warnings.warn(
        f"The weights that {model_name!r} has loaded are for other grids: "
        f"{', '.join(wrong[:_LISTED])}{more}. Their scales do not fit, so accuracy may be lost. "
        "Load them into a model that was quantized at their bits, or quantize the float model "
        "again from its own weights.",
        stacklevel=3,
    )


def _described(grid: tuple[int, ...] | None) -> str:
    bits, lowest, highest = grid or (0, 0, 0)
    return f"{bits} bits, codes {lowest} to {highest}"
