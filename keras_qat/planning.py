"""`plan`: what `quantize` would do, without doing it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import keras
from rich.console import Console
from rich.table import Table

from keras_qat import config as configs
from keras_qat.calibration import CalibrationData, see_all
from keras_qat.config import QuantizationConfig
from keras_qat.costs import float_bytes, macs, stored_bytes, stored_bytes_in_float, stored_slopes
from keras_qat.keras_graph import GraphNode, input_name, nodes
from keras_qat.model_checks import check_graph, check_model
from keras_qat.pipeline import layer_problems, normalize
from keras_qat.rule import Output
from keras_qat.rules import rule_or_float
from keras_qat.transforms.bit_widths import BitWidths, Overrides, check_overrides, stays_float
from keras_qat.transforms.grid_plan import GridPlan
from keras_qat.transforms.to_layers import to_layers
from keras_qat.transforms.tracing import as_graph
from keras_qat.uneven_ranges import ColumnRanges, range_warnings, watched_tensors


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What becomes of one call of one layer.

    Attributes:
        name: of the layer; of a part, where a layer is taken apart.
        layer_type: its class.
        output_shape: the batch left out.
        weight_bits: of its kernel; `None` without one, or in float.
        output_bits: of the grid that its output is put on; `None` where it has none of its own.
        output: where the grid of its output comes from, in words; "fused" if what follows joins
            its op.
        macs: multiplications by a kernel for one example; `None` where sizes are unknown.
        float_bytes: its weights in float32.
        litert_bytes: its kernel and bias in a file for LiteRT.
        tflm_bytes: the same in a file for TensorFlow Lite Micro, in lookup tables where smaller.
        why_not: why it stays in float; empty if it is quantized.
        in_float: it computes in float32, with quantized weights if it has kernels: for LiteRT
            alone.
    """

    name: str
    layer_type: str
    output_shape: tuple[int | None, ...]
    weight_bits: int | None
    output_bits: int | None
    output: str
    macs: int | None
    float_bytes: int
    litert_bytes: int
    tflm_bytes: int
    why_not: str = ""
    in_float: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `quantize` would make of a model; `print(plan)` shows it as a table.

    Attributes:
        model_name: of the float model.
        input_bits: input name -> bits of its grid; `None` in float.
        layers: every call, in the order of the graph.
        warnings: what is lost on grids that values of unlike range share; without calibration data
            only what a Normalization behind an input tells.
    """

    model_name: str
    input_bits: dict[str, int | None]
    layers: tuple[LayerPlan, ...]
    warnings: tuple[str, ...] = ()

    @property
    def unsupported(self) -> tuple[LayerPlan, ...]:
        """The layers that stay in float: `quantize` takes them where an override says so."""
        return tuple(layer for layer in self.layers if layer.why_not)

    @property
    def deploys(self) -> bool:
        """Whether the whole model becomes integers; with layers in float it is for LiteRT alone."""
        in_float = self.unsupported or any(layer.in_float for layer in self.layers)
        return not in_float and None not in self.input_bits.values()

    def total(self, field: str) -> int:
        """The sum of a column, such as `"litert_bytes"`; unknown entries count as 0."""
        return sum(getattr(layer, field) or 0 for layer in self.layers)

    def __str__(self) -> str:
        table = Table(title=f"What quantize() would make of {self.model_name!r}", show_footer=True)
        table.add_column("layer", "total", overflow="fold")
        table.add_column("type", overflow="fold")
        table.add_column("output", overflow="fold")
        table.add_column("weights", justify="right")
        table.add_column("output grid", overflow="fold")
        for field in ("macs", "float_bytes", "litert_bytes", "tflm_bytes"):
            head = field.replace("_bytes", " bytes").replace("macs", "MACs")
            table.add_column(head, f"{self.total(field):,}", justify="right")
        for name, bits in self.input_bits.items():
            table.add_row(name, "Input", "", "", _bits(bits) or "float")
        for layer in self.layers:
            counts = (layer.macs, layer.float_bytes, layer.litert_bytes, layer.tflm_bytes)
            table.add_row(
                layer.name,
                layer.layer_type,
                "x".join("?" if size is None else str(size) for size in layer.output_shape),
                _bits(layer.weight_bits),
                _described(layer),
                *("?" if count is None else f"{count:,}" if count else "" for count in counts),
            )
        console = Console(width=140, color_system=None)
        with console.capture() as captured:
            console.print(table)
        notes = (f"Warning: {message}" for message in self.warnings)
        return "\n".join([captured.get().rstrip(), *notes])


def plan(
    model: keras.Model,
    config: QuantizationConfig | str | dict[str, Any] | None = None,
    *,
    overrides: Overrides | None = None,
    calibration_data: Any = None,
) -> Plan:
    """What `quantize` with these arguments would do to every layer, and at what cost.

    Nothing is quantized and nothing the model has is changed. Layers without a rule are listed with
    the reason, where `quantize` raises an error.

    Args:
        model: as for `quantize`.
        config: likewise.
        overrides: likewise.
        calibration_data: as for `quantize`; a subclassed model needs it for the shapes of its
            inputs, and `warnings` for the ranges of tensors.

    Raises:
        ValueError: as `quantize`, but for layers without a rule.

    >>> import keras, keras_qat
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")])
    >>> [layer.weight_bits for layer in plan(model, keras_qat.LSQConfig(weight_bits=4)).layers]
    [8]
    """
    config, overrides = configs.get(config), check_overrides(overrides)
    check_model(model)
    graph = as_graph(model, calibration_data)
    check_graph(graph)
    reasons = layer_problems(graph, overrides)

    def left_in_float(name: str) -> bool:
        return name in reasons or stays_float(name, overrides)

    plain = to_layers(graph, left_in_float)
    reasons |= layer_problems(plain, overrides)
    unsupported: dict[str, None] = {re.escape(name): None for name in reasons}
    normalized, origins = normalize(plain, left_in_float)
    known_as = {**origins, **{name: name for name in reasons}}
    bit_widths = BitWidths(normalized, config, {**unsupported, **overrides}, known_as)
    grids = GridPlan(normalized, bit_widths, signs={})
    planner = _Planner(bit_widths, grids, reasons)
    inputs = {input_name(tensor): _grid_bits(grids, tensor) for tensor in normalized.inputs}
    layers = tuple(planner.layers(normalized))
    return Plan(model.name, inputs, layers, _warnings(normalized, grids, calibration_data))


def _warnings(normalized: keras.Model, grids: GridPlan, data: Any) -> tuple[str, ...]:
    tensors = watched_tensors(normalized, grids)
    ranges = ColumnRanges(tensors)
    batches = () if data is None else CalibrationData(normalized, data)
    if batches:
        see_all(normalized, tensors, batches, ranges.see)
    return tuple(range_warnings(normalized, grids, ranges, batches))


class _Planner:
    def __init__(self, bit_widths: BitWidths, grids: GridPlan, reasons: dict[str, str]):
        self._bit_widths = bit_widths
        self._grids = grids
        self._reasons = reasons
        self._counted: set[int] = set()

    def layers(self, model: keras.Model) -> Iterator[LayerPlan]:
        for node in nodes(model):
            yield self._layer(node)

    def _layer(self, node: GraphNode) -> LayerPlan:
        layer, tensor = node.operation, node.outputs[0]
        first_call = id(layer) not in self._counted
        self._counted.add(id(layer))
        config, _ = self._bit_widths.config_for([layer.name])
        why_not = self._reasons.get(layer.name, "left in float by an override")
        has_kernel = config is not None and rule_or_float(node).wrapper is not None
        in_float = config is not None and self._bit_widths.is_float(node)
        bits = self._bit_widths.weight_bits(layer) if has_kernel else None
        litert, tflm = (0, 0)
        if first_call and in_float:
            litert = stored_bytes_in_float(layer)
        elif first_call and bits:
            litert, tflm = stored_bytes(node, bits)
        elif first_call and config is not None:
            litert = tflm = stored_slopes(layer)
        return LayerPlan(
            name=layer.name,
            layer_type=type(layer).__name__,
            output_shape=tuple(tensor.shape[1:]),
            weight_bits=bits,
            output_bits=_grid_bits(self._grids, tensor),
            output=self._output(node),
            macs=macs(node) if has_kernel else 0,
            float_bytes=float_bytes(layer) if first_call else 0,
            litert_bytes=litert,
            tflm_bytes=tflm,
            why_not="" if config is not None else why_not,
            in_float=in_float,
        )

    def _output(self, node: GraphNode) -> str:
        tensor, rule = node.outputs[0], rule_or_float(node)
        if (grid := self._grids.starts(tensor)) is not None:
            shared = f", shared by {len(grid.sites)}" if len(grid.sites) > 1 else ""
            return _bits(grid.bits) + shared
        if rule.output is Output.FIXED:
            return "8 bits, the runtimes' own"
        if self._bit_widths.is_float(node):
            return "float32"
        if self._grids.grid_of(tensor) is not None:
            return "as its input"
        return "fused"


def _grid_bits(grids: GridPlan, tensor: Any) -> int | None:
    grid = grids.starts(tensor)
    return None if grid is None else grid.bits


def _bits(bits: int | None) -> str:
    return "" if bits is None else f"{bits} bit{'s' if bits > 1 else ''}"


def _described(layer: LayerPlan) -> str:
    """The grid of its output, and what is float."""
    if layer.why_not:
        return f"[red]float: {layer.why_not}[/red]"
    if not layer.in_float:
        return layer.output
    inside = "; float32 inside" if layer.output_bits else ""
    return f"{layer.output}{inside}, LiteRT alone"
