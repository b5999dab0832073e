"""Bit widths of layers: from the config, its 8-bit exceptions, and the overrides."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_qat.config import QuantizationConfig
from keras_qat.layer_rules.rule import Output
from keras_qat.quantization.layer_configs import LayerConfigs
from keras_qat.quantization.overrides import Overrides
from keras_qat.quantization.ruled_graph import Call, RuledGraph


class BitWidthPolicy:
    """Finds the config and the bit widths of each layer of a float model.

    Args:
        graph: the normalized float model and its rules.
        config: the config of all layers without an override.
        overrides: regular expression for a whole layer name -> config, or `None` for float.
        origins: layer name -> name of that layer in the user's model.
        paths: see `LayerConfigs`.

    Raises:
        ValueError: the pattern of an override matches no layer, or is not a regular expression.
    """

    def __init__(
        self,
        graph: RuledGraph,
        config: QuantizationConfig,
        overrides: Overrides,
        origins: Mapping[str, str],
        paths: Mapping[str, Collection[str]] | None = None,
    ):
        self._graph = graph
        self._config = config
        self._configs = LayerConfigs(config, overrides, origins, paths)
        self._origins = origins
        self._ends = _ends(graph)
        self._check_patterns()

    def config_for(self, names: Sequence[str]) -> tuple[QuantizationConfig | None, bool]:
        """The config of the last of these layers with an override, and whether there is one."""
        return self._configs.config_for(names)

    def is_left_in_float(self, name: str) -> bool:
        """Whether an override leaves the layer (or input) `name` in float."""
        return self._configs.is_left_in_float(name)

    def is_float(self, call: Call) -> bool:
        """Whether a layer computes in float, by its config, by an override or by its rule."""
        return self._configs.computes_in_float(call.name) or call.rule.output is Output.FLOAT

    def quantizes(self, call: Call) -> bool:
        """Whether at least the kernels of a layer become integers."""
        kernels = call.rule.wrapper is not None
        return not self.is_left_in_float(call.name) and (kernels or not self.is_float(call))

    def behind_float(self, name: str) -> tuple[QuantizationConfig, int]:
        """The config and the bits of a grid for an output of a layer in float."""
        config, overridden = self.config_for([name])
        if config is None or config.activation_bits is None or not overridden:
            return self._config, self._config.input_bits
        return config, config.activation_bits

    def weight_bits(self, name: str) -> int:
        """The bits of the kernel of a weight layer that is not left in float."""
        config, overridden = self.config_for([name])
        if config is None:
            raise ValueError(f"Layer {name!r} is left in float: it has no bit width.")
        if name in self._ends and not overridden:
            return config.first_and_last_bits
        return config.weight_bits

    def activation_bits(self, tensor: Any, config: QuantizationConfig, overridden: bool) -> int:
        """The bits of an activation, which depend on the calls that read its values.

        Raises:
            ValueError: the config puts weights alone on grids.
        """
        if config.activation_bits is None:
            raise ValueError("The config has no activation bits: its activations are on no grid.")
        if overridden:
            return config.activation_bits
        reached = list(self._readers(tensor))
        if None in reached:
            return config.first_and_last_bits
        if any(self._reads_wide(call) for call in reached if call is not None):
            return config.add_bits
        return config.activation_bits

    def _reads_wide(self, call: Call) -> bool:
        return self.is_float(call) or call.rule.wide_inputs

    def _readers(self, tensor: Any) -> Iterator[Call | None]:
        """All calls that read the values of a tensor on its grid; `None` is a model output."""
        seen: set[int] = set()
        waiting = [tensor]
        while waiting:
            for call in self._graph.readers(waiting.pop()):
                if id(call) in seen:
                    continue
                seen.add(id(call))
                yield call
                on_grid = call is not None and not self.is_float(call)
                if call is not None and on_grid and call.rule.output is not Output.QUANTIZE:
                    waiting.append(call.node.outputs[0])

    def _check_patterns(self) -> None:
        names = [layer.name for layer in self._graph.model.layers] + list(self._origins.values())
        names += [call.name for call in self._graph.calls if _is_raw(call.layer)]
        aliases = [alias for name in names for alias in self._configs.aliases(name)]
        for pattern, _ in self._configs.overrides:
            if not any(map(pattern.fullmatch, aliases)):
                raise ValueError(
                    f"The override {pattern.pattern!r} matches no layer. Patterns are regular "
                    f"expressions for a whole layer name. The layers are: {', '.join(aliases)}"
                )


def _is_raw(operation: Any) -> bool:
    return not isinstance(operation, keras.layers.Layer)


def _ends(graph: RuledGraph) -> set[str]:
    """The names of weight layers without another weight layer before them, or behind them."""
    before: dict[int, frozenset[str]] = {}
    first: set[str] = set()
    inner: set[str] = set()
    every: set[str] = set()
    for call in graph.calls:
        read = (before.get(id(tensor), frozenset()) for tensor in call.node.inputs)
        seen: frozenset[str] = frozenset().union(*read)
        if call.rule.wrapper is not None:
            every.add(call.name)
            inner |= seen
            if not seen:
                first.add(call.name)
            seen = seen | {call.name}
        for tensor in call.node.outputs:
            before[id(tensor)] = seen
    return first | (every - inner)
