"""Which tensors of a model get a grid, which share one, and of how many bits; builds nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from keras_qat.config import QuantizationConfig
from keras_qat.keras_graph import GraphNode, consumers, input_name, nodes
from keras_qat.quantizers import Quantizer
from keras_qat.rule import Output, Rule, Stage, UnsupportedLayerError
from keras_qat.rules import rule_or_float
from keras_qat.transforms.bit_widths import BitWidths


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A tensor that a quantizer puts on a grid.

    Attributes:
        tensor: the tensor of the float model.
        layer: name of the layer that makes it, the last one that fuses into its op.
        config: what its quantizer is made from.
        bits: of its grid.
        signed: whether it can be negative.
        is_input: whether it is an input of the model.
    """

    tensor: Any
    layer: str
    config: QuantizationConfig
    bits: int
    signed: bool
    is_input: bool = False


@dataclasses.dataclass(eq=False)
class SharedGrid:
    """One grid, and the sites whose tensors are on it: several where a layer joins tensors."""

    sites: list[Site]
    joined_by: str | None = None

    @property
    def is_input(self) -> bool:
        """Whether a model input is among its tensors."""
        return any(site.is_input for site in self.sites)

    @property
    def name(self) -> str:
        """What its quantizer is called after."""
        if self.joined_by is None or self.is_input:
            return next((site for site in self.sites if site.is_input), self.sites[0]).layer
        return self.joined_by

    @property
    def bits(self) -> int:
        """Enough for each of its tensors."""
        return max(site.bits for site in self.sites)

    @property
    def signed(self) -> bool:
        """Whether any of its tensors can be negative."""
        return any(site.signed for site in self.sites)

    def quantizer(self, name: str) -> Quantizer:
        """A quantizer for this grid, of the config of the site with the most bits."""
        config = max(self.sites, key=lambda site: site.bits).config
        make = config.input_quantizer if self.is_input else config.activation_quantizer
        return make(self.bits, self.signed, name)


@dataclasses.dataclass(frozen=True)
class _TensorState:
    """What is known of a tensor.

    Attributes:
        stage: what it is while it has no grid; `None` once it has one.
        signed: whether it can be negative.
        grid: the grid that it is on, if a quantizer makes it.
        members: names of the layers that make it since its last grid.
        minimum_bits: bits that its grid should have at least.
    """

    stage: Stage | None
    signed: bool
    grid: Site | None = None
    members: tuple[str, ...] = ()
    minimum_bits: int = 1


class GridPlan:
    """The grids of a model's tensors.

    Args:
        model: normalized float model: linear weight layers, known layer types only.
        bit_widths: bits and configs by layer.
        signs: name of an input, or of a layer in float -> whether it can be negative; of what is
            not named that is taken for granted.

    Raises:
        UnsupportedLayerError: a layer that joins tensors whose grids cannot be one.
        ValueError: an input that is left in float, and a quantized layer that reads it.
    """

    def __init__(self, model: keras.Model, bit_widths: BitWidths, signs: Mapping[str, bool]):
        self._bit_widths = bit_widths
        self._signs = signs
        self._consumers = consumers(model)
        self._states: dict[int, _TensorState] = {}
        self._sites: dict[int, Site] = {}
        self._grids: dict[int, SharedGrid] = {}
        for tensor in model.inputs:
            self._visit_input(tensor)
        for node in nodes(model):
            self._visit(node)

    @property
    def grids(self) -> list[SharedGrid]:
        """Every grid, in the order of the graph."""
        return list({id(grid): grid for grid in self._grids.values()}.values())

    def starts(self, tensor: Any) -> SharedGrid | None:
        """The grid that a quantizer puts this tensor on, right behind the layer that makes it."""
        site = self._sites.get(id(tensor))
        return None if site is None else self._grids[id(site)]

    def grid_of(self, tensor: Any) -> SharedGrid | None:
        """The quantizer's grid that the values of this tensor are on; `None` if there is none."""
        site = self._states[id(tensor)].grid
        return None if site is None else self._grids[id(site)]

    def is_float(self, node: GraphNode) -> bool:
        """Whether the layer of this call computes in float."""
        return self._bit_widths.is_float(node)

    def _visit_input(self, tensor: Any) -> None:
        name = input_name(tensor)
        signed = self._signs.get(name, True)
        config, overridden = self._bit_widths.config_for([name])
        on_a_grid = self._is_read_on_a_grid(tensor)
        if config is None and on_a_grid:
            raise ValueError(
                f"The input {name!r} is left in float, and a quantized layer reads it. Leave "
                "those layers in float, too, or drop the override of the input."
            )
        if config is None or (self._holds_integers(tensor) and not on_a_grid):
            self._states[id(tensor)] = _TensorState(Stage.FLOAT, signed)
            return
        bits = config.activation_bits if overridden else config.input_bits
        self._start(Site(tensor, name, config, bits, signed, is_input=True))

    def _holds_integers(self, tensor: Any) -> bool:
        """Whether an input says so, or embeddings alone read it."""
        readers = self._consumers.get(id(tensor), [])
        looked_up = [
            reader is not None and isinstance(reader.operation, keras.layers.Embedding)
            for reader in readers
        ]
        return not keras.backend.is_float_dtype(tensor.dtype) or (bool(readers) and all(looked_up))

    def _visit(self, node: GraphNode) -> None:
        if self.is_float(node):
            self._visit_float(node)
            return
        state = self._state_behind(node, rule_or_float(node))
        (tensor,) = node.outputs  # only a layer in float yields several
        self._states[id(tensor)] = state
        if self._needs_quantizer(tensor, state):
            self._quantize(tensor, state)

    def _visit_float(self, node: GraphNode) -> None:
        """Its tensors have no grid where layers in float alone read them."""
        name = node.operation.name
        signed = self._signs.get(name, True)
        for tensor in node.outputs:
            self._states[id(tensor)] = _TensorState(Stage.FLOAT, signed)
            if self._is_read_on_a_grid(tensor):
                config, bits = self._bit_widths.behind_float(name)
                self._start(Site(tensor, name, config, bits, signed))

    def _is_read_on_a_grid(self, tensor: Any) -> bool:
        """Whether a quantized layer reads the tensor, or it is an output of the model."""
        readers = self._consumers.get(id(tensor), [])
        return any(reader is None or not self.is_float(reader) for reader in readers)

    def _state_behind(self, node: GraphNode, rule: Rule) -> _TensorState:
        operands = [self._states[id(tensor)] for tensor in node.inputs]
        first, name = operands[0], node.operation.name
        members = (*first.members, name) if first.stage and rule.joins else (name,)
        any_sign = rule.yields is Stage.LINEAR or rule.signed
        signed = not rule.unsigned and (any_sign or any(state.signed for state in operands))
        if rule.output is Output.FIXED:
            return _TensorState(None, signed)
        if rule.output is Output.QUANTIZE:
            return _TensorState(
                rule.yields, signed, members=members, minimum_bits=rule.minimum_bits
            )
        if rule.output is Output.SHARED:
            return self._joined(node, operands, signed)
        if first.stage is None:
            return dataclasses.replace(first, signed=signed and first.signed, members=members)
        return _TensorState(Stage.COMPLETE, signed, members=members)

    def _joined(self, node: GraphNode, operands: list[_TensorState], signed: bool) -> _TensorState:
        """All operands on one grid from now on."""
        name = node.operation.name
        sites = [state.grid for state in operands if state.grid is not None]
        if sites and len(sites) < len(operands):
            raise UnsupportedLayerError(
                f"{name!r} ({type(node.operation).__name__}): it joins the output of a Softmax, "
                "which has a grid of its own in every runtime, with other tensors. Make the "
                "Softmax a separate output."
            )
        for site in sites[1:]:
            self._merge(self._grids[id(sites[0])], self._grids[id(site)])
        if sites:
            grid = self._grids[id(sites[0])]
            grid.joined_by = grid.joined_by or name
        return dataclasses.replace(operands[0], signed=signed, members=(name,))

    def _merge(self, grid: SharedGrid, other: SharedGrid) -> None:
        if grid is other:
            return
        grid.sites.extend(other.sites)
        grid.joined_by = grid.joined_by or other.joined_by
        for site in other.sites:
            self._grids[id(site)] = grid

    def _needs_quantizer(self, tensor: Any, state: _TensorState) -> bool:
        """Whether a grid must come here, because not exactly one reader fuses with the tensor."""
        if state.stage is None:
            return False
        readers = self._consumers.get(id(tensor), [])
        if len(readers) != 1 or readers[0] is None or self.is_float(readers[0]):
            return True
        return state.stage not in rule_or_float(readers[0]).joins

    def _quantize(self, tensor: Any, state: _TensorState) -> None:
        config, overridden = self._bit_widths.config_for(state.members)
        if config is None:
            raise ValueError(f"{state.members} stay in float: they have no grid.")
        bits = self._bit_widths.activation_bits(tensor, config, overridden)
        if not overridden:
            bits = max(bits, state.minimum_bits)
        self._start(Site(tensor, state.members[-1], config, bits, state.signed))

    def _start(self, site: Site) -> None:
        self._sites[id(site.tensor)] = site
        self._grids[id(site)] = SharedGrid([site])
        self._states[id(site.tensor)] = _TensorState(None, site.signed, site)
