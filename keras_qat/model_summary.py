"""The summary of a quantized model: its layers with their bits, and the bytes that they ship.

A layer has one row, with the quantizer of its output, which is `NAME_quantizer` in the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_qat.integer.storage_sizes import bias_bytes, int8_bytes, planned_weight_bytes
from keras_qat.integer.tables import terminal_width
from keras_qat.keras_graph import layer_name, nodes
from keras_qat.quantized_layers import QuantizeWrapper, quantized_kernels
from keras_qat.quantizers import PutsOnGrid
from keras_qat.training.learned_bit_widths import LearnedWidth, learned_widths

_FLOAT_BYTES = 4
_NUMBERS = ("params", "weight\nbits", "activation\nbits", "deployed\nKB")


class Summarized(keras.Model):
    """A quantized model that prints its summary.

    Attributes:
        target: the target whose bytes are counted; LiteRT for `None`.
    """

    target: str | None

    def summary(
        self,
        line_length: int | None = None,
        positions: Any = None,
        print_fn: Any = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: Any = None,
    ) -> None:
        """Prints the layers with the bits of their weights and activations, and deployed KB.

        A learned width shows its mean and its target. `positions` and `layer_range` are of the
        table of Keras, which they print.
        """
        if positions is not None or layer_range is not None:
            super().summary(
                line_length, positions, print_fn, expand_nested, show_trainable, layer_range
            )
            return
        (print_fn or print)(summary_text(self, self.target, line_length, show_trainable))


def summary_text(
    model: keras.Model, target: str | None, width: int | None, show_trainable: bool = False
) -> str:
    """The summary as text.

    Args:
        model: a quantized model.
        target: the target whose bytes are counted; LiteRT for `None`.
        width: how wide the text is; as wide as the terminal for `None`.
        show_trainable: whether a column says which layers train.
    """
    table = Table(box=box.HEAVY_HEAD, padding=(0, 1))
    table.add_column("layer (type)", overflow="fold")
    table.add_column("output", overflow="fold")
    for name in _NUMBERS:
        table.add_column(name, justify="right")
    if show_trainable:
        table.add_column("trains")
    learned = {id(each.quantizer): each for each in learned_widths(model, frozen=True)}
    behind = _quantizers_behind(model)
    total = 0
    for layer in model.layers:
        if isinstance(layer, PutsOnGrid):
            continue  # it is in the row of the layer before it
        found, grids = _bytes(layer, target), behind.get(layer.name, [])
        total += found
        cells = [
            f"{layer.name} ({type(layer).__name__.removeprefix('Quantize')})",
            _shape(layer),
            f"{layer.count_params() + sum(each.count_params() for each in grids):,}",
            _bits([each.weight_quantizer for each in quantized_kernels(layer)], learned),
            _bits(grids, learned),
            f"{found / 1024:,.2f}" if found else "",
            *(["yes" if layer.trainable else "no"] if show_trainable else []),
        ]
        table.add_row(*map(Text, cells))
    console = Console(width=width or terminal_width(), color_system=None)
    with console.capture() as captured:
        console.print(table)
    lines = [f'Model: "{model.name}"', *captured.get().rstrip().splitlines()]
    return "\n".join([*lines, *_totals(model, target, total)])


def _quantizers_behind(model: keras.Model) -> dict[str, list[Any]]:
    """The quantizers of the output of a layer, by its name; a shared one counts once."""
    found: dict[str, list[Any]] = {}
    seen: set[int] = set()
    for node in nodes(model):
        quantizer = node.operation
        if isinstance(quantizer, PutsOnGrid):
            row = found.setdefault(layer_name(node.inputs[0]), [])
            if id(quantizer) not in seen:
                row.append(quantizer)
            seen.add(id(quantizer))
    return found


def _totals(model: keras.Model, target: str | None, deployed: int) -> list[str]:
    trainable = _count(model.trainable_weights)
    other = _count(model.non_trainable_weights)
    optimizer = getattr(model, "optimizer", None)
    lines = [f" Trainable params: {_sized(trainable)}", f" Non-trainable params: {_sized(other)}"]
    if optimizer is not None:
        lines.append(f" Optimizer params: {_sized(_count(optimizer.variables))}")
    where = {"tflm": "TensorFlow Lite Micro", "ethos-u": "Ethos-U"}.get(target or "", "LiteRT")
    return [
        f" Total params: {_sized(trainable + other)}",
        *lines,
        f" Deployed weights and biases: {deployed / 1024:,.2f} KB, for {where}",
    ]


def _count(variables: Sequence[Any]) -> int:
    return sum(math.prod(each.shape) for each in variables)


def _sized(count: int) -> str:
    return f"{count:,} ({_FLOAT_BYTES * count / 1024:,.2f} KB)"


def _shape(layer: Any) -> str:
    """The shape of the first output without the examples, as `"8x8x16"`."""
    try:
        output = keras.tree.flatten(layer.output)[0]
    except (AttributeError, ValueError):
        return "?"  # it is called several times
    return "x".join("?" if size is None else str(size) for size in output.shape[1:])


def _bits(quantizers: Sequence[Any], learned: dict[int, LearnedWidth]) -> str:
    """The bits of the grids; of a learned width above its target, its mean and the target."""
    texts = []
    for quantizer in quantizers:
        width = learned.get(id(quantizer))
        if width is None or width.meets_target():
            texts.append(str(quantizer.bits))
        else:
            texts.append(f"{float(ops.mean(width.widths())):.1f} to {width.target}")
    return ", ".join(dict.fromkeys(texts))


def _bytes(layer: Any, target: str | None) -> int:
    """The bytes of the weights of a layer in a file."""
    kernels = list(quantized_kernels(layer))
    if isinstance(layer, QuantizeWrapper):
        shape = layer.channels_last_kernel().shape
        count, channels = math.prod(shape), shape[-1]
        bits = int(layer.weight_quantizer.bits)
        lookup = target == "tflm"
        weights = planned_weight_bytes(count, channels, bits) if lookup else int8_bytes(count)
        return weights + bias_bytes(channels)
    if kernels:  # the kernels are int8, the rest is float32
        count = sum(math.prod(each.kernel.shape) for each in kernels)
        others = _count(layer.layer.weights) - count
        return int(int8_bytes(count) + _FLOAT_BYTES * others)
    return 0
