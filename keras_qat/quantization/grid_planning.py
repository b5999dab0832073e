"""Plans the grids of a model: which tensors have one, which share one, and their bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from keras_qat.config import QuantizationConfig
from keras_qat.copying import builtin_name
from keras_qat.errors import UnsupportedLayerError
from keras_qat.keras_graph import input_name
from keras_qat.keras_masks import data_inputs
from keras_qat.layer_rules.rule import Output, Stage
from keras_qat.quantization.bit_width_policy import BitWidthPolicy
from keras_qat.quantization.plan import NEGATIVE, Place, PlannedGrid, PlannedTensor, Sign
from keras_qat.quantization.ruled_graph import MASK, Call, RuledGraph
from keras_qat.quantizers.grid import MAX_BITS


@dataclasses.dataclass(frozen=True)
class _TensorState:
    """The state of a tensor during the walk.

    Attributes:
        sign: whether the tensor can be negative.
        stage: the stage of a tensor without a grid; `None` once it has a grid.
        start: the number of the tensor where its grid begins; `None` if no quantizer makes it.
        members: names of the layers that computed the tensor since the last grid.
        minimum_bits: the least bits of its grid.
    """

    sign: Sign
    stage: Stage | None = None
    start: int | None = None
    members: tuple[str, ...] = ()
    minimum_bits: int = 1


class GridPlanner:
    """Walks a model once and finds the grids of its tensors. It builds nothing.

    Args:
        graph: the model.
        policy: the bits of its tensors.
        native_grids: scales of functions, by their names; see `keras_qat.targets.NATIVE_GRIDS`.

    Attributes:
        grids: every grid, in the order of the graph.

    Raises:
        UnsupportedLayerError: a layer joins tensors that cannot share a grid.
        ValueError: a quantized layer reads an input that is left in float.
    """

    def __init__(
        self,
        graph: RuledGraph,
        policy: BitWidthPolicy,
        native_grids: Mapping[str, float] | None = None,
    ):
        self._graph = graph
        self._native_grids = native_grids or {}
        self._policy = policy
        self._states: dict[int, _TensorState] = {}  # by the id of a tensor
        self._starts: dict[int, int] = {}  # id of a tensor that starts a grid -> its number
        self._tensors: list[PlannedTensor] = []  # by their numbers
        self._groups = _UnionFind()
        self._joined_by: dict[int, str] = {}  # number of a group -> a layer that joins it
        for index, tensor in enumerate(graph.model.inputs):
            self._visit_input(tensor, index)
        for call in graph.calls:
            self._visit(call)
        self.grids = self._grids()
        self._grid_numbers = {
            number: index
            for index, members in enumerate(self._groups.members())
            for number in members
        }

    def starts(self, tensor: Any) -> int | None:
        """The index of the grid of a quantizer directly behind the tensor; `None` without one."""
        start = self._starts.get(id(tensor))
        return None if start is None else self._grid_numbers[start]

    def grid_of(self, tensor: Any) -> int | None:
        """The index of the grid of the tensor's values; `None` if no quantizer made it."""
        start = self._states[id(tensor)].start
        return None if start is None else self._grid_numbers[start]

    def _grids(self) -> tuple[PlannedGrid, ...]:
        return tuple(
            PlannedGrid(
                tuple(self._tensors[number] for number in members),
                self._joined_by.get(members[0]),
            )
            for members in self._groups.members()
        )

    def _visit_input(self, tensor: Any, index: int) -> None:
        name = input_name(tensor)
        sign = Sign(frozenset({name}))
        config, overridden = self._policy.config_for([name])
        on_a_grid = self._needs_grid(tensor, config)
        bits = None if config is None else config.activation_bits
        if on_a_grid and (config is None or (overridden and bits is None)):
            raise ValueError(
                f"The input {name!r} is left in float, and a quantized layer reads it. Leave "
                "its readers in float too, or drop the override of the input."
            )
        if config is None or (not on_a_grid and (bits is None or self._holds_integers(tensor))):
            self._states[id(tensor)] = _TensorState(sign, Stage.FLOAT)
            return
        bits = bits if overridden and bits is not None else config.input_bits
        place = Place(None, index)
        self._start(tensor, PlannedTensor(place, name, (name,), config, bits, sign, is_input=True))

    def _holds_integers(self, tensor: Any) -> bool:
        """Whether an input has an integer dtype, or only embeddings read it."""
        looked_up = [
            reader is not None and isinstance(reader.layer, keras.layers.Embedding)
            for reader in self._graph.readers(tensor)
            if reader is None or reader.rule is not MASK
        ]
        is_float = keras.backend.is_float_dtype(tensor.dtype)
        return not is_float or (bool(looked_up) and all(looked_up))

    def _visit(self, call: Call) -> None:
        if self._policy.is_float(call):
            self._visit_float(call)
            return
        state = self._state_behind(call)
        (tensor,) = call.node.outputs  # only layers in float have several outputs
        self._states[id(tensor)] = state
        if self._needs_quantizer(tensor, state):
            self._quantize(call, tensor, state)

    def _visit_float(self, call: Call) -> None:
        """Starts a grid for each output that needs one."""
        name, sign = call.name, Sign(frozenset({call.name}))
        own, _ = self._policy.config_for([name])
        for index, tensor in enumerate(call.node.outputs):
            self._states[id(tensor)] = _TensorState(sign, Stage.FLOAT)
            if call.rule is not MASK and self._needs_grid(tensor, own):
                config, bits = self._policy.behind_float(name)
                place = Place(call.index, index)
                self._start(tensor, PlannedTensor(place, name, (name,), config, bits, sign))

    def _needs_grid(self, tensor: Any, config: QuantizationConfig | None) -> bool:
        """Whether a quantized layer reads an input, or what a layer in float yields.

        A model output needs a grid too, unless the config puts weights alone on grids.
        """
        readers = self._graph.readers(tensor)
        if any(reader is not None and not self._policy.is_float(reader) for reader in readers):
            return True
        return None in readers and (config is None or config.rounds_activations)

    def _state_behind(self, call: Call) -> _TensorState:
        rule, name = call.rule, call.name
        operands = [self._states[id(tensor)] for tensor in data_inputs(call.node)]
        first = operands[0]
        members = (*first.members, name) if first.stage and rule.joins else (name,)
        sign = _sign_behind(call, operands)
        if rule.output in (Output.FIXED, Output.INDEX):
            return _TensorState(sign)
        if rule.output is Output.QUANTIZE:
            return _TensorState(sign, rule.yields, members=members, minimum_bits=rule.minimum_bits)
        if rule.output is Output.SHARED:
            return self._joined(call, operands, sign)
        if first.stage is None:
            kept = first.sign if sign == NEGATIVE else sign
            return dataclasses.replace(first, sign=kept, members=members)
        return _TensorState(sign, Stage.COMPLETE, members=members)

    def _joined(self, call: Call, operands: list[_TensorState], sign: Sign) -> _TensorState:
        """Puts all operands on one grid."""
        starts = [state.start for state in operands if state.start is not None]
        if starts and len(starts) < len(operands):
            raise UnsupportedLayerError(
                f"{call.name!r} ({type(call.layer).__name__}): it joins the output of a Softmax "
                "with other tensors. A Softmax has a fixed grid in every runtime. Make the Softmax "
                "a separate output, or join in float32 for LiteRT alone: "
                f"overrides={{{call.name!r}: keras_qat.LSQConfig(activation_bits=None)}}."
            )
        for start in starts:
            self._merge(starts[0], start)
        if starts:
            self._joined_by.setdefault(self._groups.first_of(starts[0]), call.name)
        return dataclasses.replace(operands[0], sign=sign, members=(call.name,))

    def _merge(self, start: int, other: int) -> None:
        """Makes one grid of the grids of two tensors, given by their numbers.

        If a layer has joined tensors on one of the two grids before, the new grid keeps the name of
        this layer. If both grids have such a name, the name of `start`'s grid stays.
        """
        before = [self._groups.first_of(each) for each in (start, other)]
        names = [self._joined_by.pop(each, None) for each in dict.fromkeys(before)]
        self._groups.merge(start, other)
        if name := next(filter(None, names), None):
            self._joined_by[self._groups.first_of(start)] = name

    def _needs_quantizer(self, tensor: Any, state: _TensorState) -> bool:
        """Whether a quantizer is needed here: unless the only reader fuses with the tensor."""
        if state.stage is None:
            return False
        readers = self._graph.readers(tensor)
        if len(readers) != 1 or readers[0] is None or self._policy.is_float(readers[0]):
            return True
        return state.stage not in readers[0].rule.joins

    def _quantize(self, call: Call, tensor: Any, state: _TensorState) -> None:
        config, overridden = self._policy.config_for(state.members)
        if config is None:
            raise ValueError(f"Layer {state.members[-1]!r} stays in float: it has no grid.")
        bits = self._policy.activation_bits(tensor, config, overridden)
        if not overridden:
            bits = max(bits, state.minimum_bits)
        name, place = state.members[-1], Place(call.index, 0)
        planned = PlannedTensor(place, name, state.members, config, bits, state.sign)
        if not overridden and (scale := self._native_scale(call)) is not None:
            sign = NEGATIVE if scale * 2**MAX_BITS > 1.0 else Sign()  # [-1, 1) or [0, 1)
            planned = dataclasses.replace(planned, native_scale=scale, sign=sign)
        self._start(tensor, planned)

    def _native_scale(self, call: Call) -> float | None:
        """The scale of the one grid on which the target runs this function; mostly `None`."""
        function = builtin_name(getattr(call.layer, "activation", None))
        return self._native_grids.get(function or "")

    def _start(self, tensor: Any, planned: PlannedTensor) -> None:
        number = self._groups.add()
        self._tensors.append(planned)
        self._starts[id(tensor)] = number
        self._states[id(tensor)] = _TensorState(planned.sign, start=number)


def _sign_behind(call: Call, operands: list[_TensorState]) -> Sign:
    if call.rule.unsigned:
        return Sign()
    if call.rule.yields is Stage.LINEAR or call.rule.signed:
        return NEGATIVE
    return Sign.any_of(state.sign for state in operands)


class _UnionFind:
    """Numbers 0, 1, 2, ... in groups. Merging appends the second group to the first."""

    def __init__(self) -> None:
        self._groups: list[list[int]] = []  # the group of each number

    def add(self) -> int:
        """Adds a new number in a new group, and returns it."""
        self._groups.append([len(self._groups)])
        return len(self._groups) - 1

    def first_of(self, number: int) -> int:
        """The first number in the group of `number`, which stands for the group."""
        return self._groups[number][0]

    def merge(self, number: int, other: int) -> None:
        group, added = self._groups[number], self._groups[other]
        if group is added:
            return
        group.extend(added)
        for each in added:
            self._groups[each] = group

    def members(self) -> list[list[int]]:
        """Every group, in the order of the least number in it."""
        return list({id(group): group for group in self._groups}.values())
