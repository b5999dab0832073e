"""`QuantizationPlan`: what `quantize` will do to a model, as frozen data."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_qat.config import QuantizationConfig
from keras_qat.integer import tables
from keras_qat.integer.tables import html_lines, terminal_width
from keras_qat.layer_rules.rule import Rule
from keras_qat.quantizers import Quantizer, STEActivationQuantizer, WeightQuantizer
from keras_qat.quantizers.grid import MAX_BITS, Grid
from keras_qat.quantizers.preserved import PRESERVED

_COSTS = {
    "macs": "MACs",
    "float_bytes": "float bytes",
    "litert_bytes": "litert bytes",
    "tflm_bytes": "tflm bytes",
}
"""The heads of the columns of costs, by the attribute of a layer."""

_WIDE = 120
_LEFT_OUT = ("type", "float bytes")
"""The columns that a terminal of less than `_WIDE` columns does not show."""

LEFT_IN_FLOAT = "left in float by an override"


@dataclasses.dataclass(frozen=True)
class Sign:
    """Whether a tensor can be negative.

    Attributes:
        if_any: names of inputs and of layers in float; it can be negative if one of them can.
        always: it can be negative in any case.
    """

    if_any: frozenset[str] = frozenset()
    always: bool = False

    @classmethod
    def any_of(cls, signs: Iterable[Sign]) -> Sign:
        """The sign that says whether one of several tensors can be negative.

        >>> Sign.any_of([Sign(frozenset({"left"})), NEGATIVE]) == NEGATIVE
        True
        """
        found = list(signs)
        if any(sign.always for sign in found):
            return NEGATIVE
        return cls(frozenset().union(*(sign.if_any for sign in found)))

    def known(self, measured: Mapping[str, bool]) -> bool | None:
        """Whether the tensor can be negative; `None` if the measured signs do not tell.

        Args:
            measured: whether a tensor can be negative, by the names that `if_any` holds. Names may
                be missing.

        >>> Sign(frozenset({"left"})).known({}), Sign().known({})
        (None, False)
        """
        answers = [measured.get(name) for name in self.if_any]
        if self.always or True in answers:
            return True
        return None if None in answers else False


NEGATIVE = Sign(always=True)


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a tensor in the normalized model.

    Attributes:
        call: the index of the call that yields it, in the order of the graph; `None` for an input.
        index: the index among the outputs of the call, or among the inputs of the model.
    """

    call: int | None
    index: int


@dataclasses.dataclass(frozen=True)
class PlannedTensor:
    """A tensor that a quantizer puts on a grid.

    Attributes:
        place: its place in the model.
        layer: the name of the layer that yields it, the last one of its fused op.
        members: the names of all layers of the fused op; `layer` is the last one.
        config: the config of its quantizer.
        bits: the bits of its grid.
        sign: whether it can be negative.
        is_input: whether it is an input of the model.
        native_scale: the scale of the one 8-bit grid on which the target runs the function that
            yields it; `None` for any grid.
    """

    place: Place
    layer: str
    members: tuple[str, ...]
    config: QuantizationConfig = dataclasses.field(repr=False)
    bits: int
    sign: Sign
    is_input: bool = False
    native_scale: float | None = None


@dataclasses.dataclass(frozen=True)
class PlannedGrid:
    """One grid, and the tensors on it. A layer that joins tensors puts them on one grid.

    Attributes:
        tensors: the tensors that a quantizer puts on it.
        joined_by: the name of the layer that joined several tensors on it.
        signed: whether any of its tensors can be negative; `None` (unknown) without data.
    """

    tensors: tuple[PlannedTensor, ...]
    joined_by: str | None = None
    signed: bool | None = None

    @property
    def is_input(self) -> bool:
        """Whether a model input is among its tensors."""
        return any(tensor.is_input for tensor in self.tensors)

    @property
    def name(self) -> str:
        """The name from which the name of its quantizer is formed."""
        if self.joined_by is None or self.is_input:
            return next((each for each in self.tensors if each.is_input), self.tensors[0]).layer
        return self.joined_by

    @property
    def native_scale(self) -> float | None:
        """The scale that the target's own functions need, if all of its tensors are of these."""
        (scale, *others) = {tensor.native_scale for tensor in self.tensors}
        return None if others else scale

    @property
    def bits(self) -> int:
        """The largest bit width of its tensors."""
        if self.native_scale is not None:
            return MAX_BITS
        return max(tensor.bits for tensor in self.tensors)

    @property
    def config(self) -> QuantizationConfig:
        """The config of the tensor with the most bits."""
        return max(self.tensors, key=lambda tensor: tensor.bits).config

    def with_sign(self, measured: Mapping[str, bool]) -> PlannedGrid:
        """The same grid with `signed` from the measured signs of inputs and layers in float."""
        sign = Sign.any_of(tensor.sign for tensor in self.tensors)
        return dataclasses.replace(self, signed=sign.known(measured))

    def quantizer(self, name: str) -> Quantizer:
        """A new quantizer for this grid. An unknown sign counts as signed."""
        config = self.config
        if self.native_scale is not None:
            grid = Grid.for_activations(MAX_BITS, self.signed is not False)
            return STEActivationQuantizer(grid, name=name)
        make = config.input_quantizer if self.is_input else config.activation_quantizer
        return make(self.bits, self.signed is not False, name)


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """The plan of one call of one layer.

    Attributes:
        name: the name of the layer, or of a part if the layer is taken apart.
        layer_type: the name of its class.
        output_shape: the shape of its first output, without the batch.
        rule: its rule.
        config: the config of its quantizers; `None` if it is left in float.
        weight_bits: the bits of its kernel; `None` without a kernel, or in float.
        input_gain: the factor on its kernel from a Rescaling before it.
        starts: for each output, the index in `grids` of the grid of a quantizer directly behind it;
            `None` without a quantizer.
        grid: the index of the grid of its first output; `None` without a grid.
        output_bits: the bits of the grid that starts at its first output; `None` without one.
        output: the source of the grid of its output, in words; "fused" if the next layer joins its
            op.
        macs: the multiplications by a kernel for one example; `None` if sizes are unknown.
        float_bytes: the bytes of its weights in float32.
        litert_bytes: the bytes of its kernel and bias in a file for LiteRT.
        tflm_bytes: the same for TensorFlow Lite Micro, in lookup tables where these are smaller.
        why_not: why it stays in float; empty if it is quantized.
        in_float: whether it computes in float32 (weight-only, if it has kernels), by its rule or by
            a config without activation bits. Such a model exports for LiteRT only.
        one_scale: whether a file has one weight scale for all its units.
        path: its name with the inner models it was in, such as `"base/conv1"`; empty outside.
    """

    name: str
    layer_type: str
    output_shape: tuple[int | None, ...]
    rule: Rule = dataclasses.field(repr=False)
    config: QuantizationConfig | None = dataclasses.field(repr=False)
    weight_bits: int | None
    input_gain: float
    starts: tuple[int | None, ...]
    grid: int | None
    output_bits: int | None
    output: str
    macs: int | None
    float_bytes: int
    litert_bytes: int
    tflm_bytes: int
    why_not: str = ""
    in_float: bool = False
    one_scale: bool = False
    path: str = ""

    def weight_quantizer(self) -> WeightQuantizer:
        """A new quantizer for its kernel.

        Raises:
            ValueError: it has no kernel to quantize.
        """
        if self.config is None or self.weight_bits is None:
            raise ValueError(f"Layer {self.name!r} has no kernel that is quantized.")
        config = self.config
        if self.one_scale:
            config = dataclasses.replace(config, per_channel=False)
        quantizer = config.weight_quantizer(self.weight_bits)
        for option in PRESERVED:
            if getattr(self.config, option) and not getattr(quantizer, option):
                raise ValueError(
                    f"{type(self.config).__name__} makes a quantizer for {self.name!r} that does "
                    f"not know {option}. Received: {quantizer!r}. Give it "
                    "**self._for_weights(bits) in weight_quantizer(bits)."
                )
        return quantizer

    @property
    def computes_in_float(self) -> bool:
        """Whether it computes in float32, with or without quantized weights."""
        return self.in_float or self.config is None


@dataclasses.dataclass(frozen=True)
class QuantizationPlan(tables.Table):
    """What `quantize` will do to a model; `print(plan)` shows it as a table.

    A notebook shows the same. `to_dataframe()`, `to_csv(path)` and `to_latex(path)` give its rows.

    Attributes:
        model_name: the name of the float model.
        inputs: the name of every input, and the index of its grid in `grids`; `None` in float.
        grids: every grid, in the order of the graph.
        layers: every call, in the order of the graph.
        warnings: the losses on grids that values of unlike ranges share. Without calibration data,
            only those that a Normalization behind an input shows.
    """

    model_name: str
    inputs: tuple[tuple[str, int | None], ...]
    grids: tuple[PlannedGrid, ...]
    layers: tuple[LayerPlan, ...]
    warnings: tuple[str, ...] = ()

    @property
    def input_bits(self) -> dict[str, int | None]:
        """Input name -> the bits of its grid; `None` in float."""
        return {name: None if grid is None else self.grids[grid].bits for name, grid in self.inputs}

    @property
    def unsupported(self) -> tuple[LayerPlan, ...]:
        """The layers that stay in float. `quantize` accepts them only with an override."""
        return tuple(layer for layer in self.layers if layer.why_not)

    @property
    def deploys(self) -> bool:
        """Whether the whole model becomes integers. If not, it exports for LiteRT only."""
        in_float = self.unsupported or any(layer.in_float for layer in self.layers)
        return not in_float and None not in self.input_bits.values()

    def total(self, field: str) -> int:
        """The sum of a column, such as `"litert_bytes"`; unknown entries count as 0."""
        return sum(getattr(layer, field) or 0 for layer in self.layers)

    @property
    def table_head(self) -> tuple[str, ...]:
        """The columns: a row for each input and for each call of a layer."""
        return ("layer", "type", "output", "weights", "output grid", *_COSTS.values())

    @property
    def table_rows(self) -> list[tuple[Any, ...]]:
        """A row for each input and each call of a layer; costs of 0 and unknown ones are `None`."""
        mixed = not self._all_in_float
        rows: list[tuple[Any, ...]] = []
        for name, grid in self.inputs:
            bits = "float" if grid is None else described_bits(self.grids[grid].bits)
            rows.append((name, "Input", "", "", bits + self._sign_of(grid), *[None] * len(_COSTS)))
        for layer in self.layers:
            rows.append(
                (
                    layer.path or layer.name,
                    layer.layer_type,
                    "x".join("?" if size is None else str(size) for size in layer.output_shape),
                    described_bits(layer.weight_bits),
                    _described(layer, self._sign_of(layer.starts[0]), mixed),
                    *(getattr(layer, field) or None for field in _COSTS),
                )
            )
        return rows

    def __str__(self) -> str:
        """The rows as a table that is no wider than the terminal; a narrow one has less columns."""
        width = terminal_width()
        wide = width >= _WIDE
        shown = [name for name in self.table_head if wide or name not in _LEFT_OUT]
        totals = {name: f"{self.total(field):,}" for field, name in _COSTS.items()}
        table = Table(
            title=f"What quantize() would make of {self.model_name!r}",
            show_footer=True,
            box=box.HEAVY_HEAD if wide else box.SIMPLE_HEAD,
            pad_edge=wide,
            padding=(0, 1) if wide else (0, 0),
        )
        for name in shown:
            right = name in totals or name == "weights"
            footer = "total" if name == "layer" else totals.get(name, "")
            justify: Literal["left", "right"] = "right" if right else "left"
            table.add_column(name, footer, justify=justify, overflow="fold")
        unknown = [None] * len(self.inputs) + list(self.layers)
        for row, layer in zip(self.table_rows, unknown, strict=True):
            cells = dict(zip(self.table_head, row, strict=True))
            for field, name in _COSTS.items():
                missing = layer is not None and getattr(layer, field) is None
                cells[name] = "?" if missing else f"{cells[name]:,}" if cells[name] else ""
            table.add_row(*(Text(cells[name]) for name in shown))
        console = Console(width=width, color_system=None)
        with console.capture() as captured:
            console.print(table)
        lines = [line.rstrip() for line in captured.get().rstrip().splitlines()]
        return "\n".join([*lines, *self._notes(width)])

    def _repr_html_(self) -> str:
        """What a notebook shows: the rows, and the warnings."""
        return self.html_table() + html_lines(self._notes(10_000))

    def _notes(self, width: int) -> list[str]:
        notes = [f"Warning: {message}" for message in self.warnings]
        if self._all_in_float:
            notes.append("All layers compute in float32, for LiteRT alone.")
        return [
            line for note in notes for line in textwrap.wrap(note, width, subsequent_indent="  ")
        ]

    @property
    def _all_in_float(self) -> bool:
        return all(layer.computes_in_float for layer in self.layers)

    def _sign_of(self, grid: int | None) -> str:
        """The sign of a grid as text; empty without a grid."""
        if grid is None:
            return ""
        signs = {True: ", signed", False: ", unsigned", None: ", sign unknown"}
        return signs[self.grids[grid].signed]


def described_bits(bits: int | None) -> str:
    """A number of bits as text; empty for `None`.

    >>> described_bits(1), described_bits(8)
    ('1 bit', '8 bits')
    """
    return "" if bits is None else f"{bits} bit{'s' if bits > 1 else ''}"


def _described(layer: LayerPlan, sign: str, mixed: bool) -> str:
    """The grid of the output as text, and the part that is in float.

    The target is named where layers are mixed; the table names it once if all are in float.
    """
    if layer.why_not:
        return f"float: {layer.why_not}"
    if not layer.in_float:
        return f"{layer.output}{sign}"
    inside = "; float32 inside" if layer.output_bits else ""
    return f"{layer.output}{sign}{inside}{', LiteRT alone' if mixed else ''}"
