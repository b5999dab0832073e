"""The config of each layer: the model's config, or the config of an override."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from keras_qat import config as configs
from keras_qat.config import QuantizationConfig
from keras_qat.quantization.overrides import Overrides, compiled


class LayerConfigs:
    """Finds the config of a layer by its name.

    Args:
        config: the config of all layers without an override.
        overrides: regular expression for a whole layer name -> config, or `None` for float.
        origins: layer name -> name of that layer in the user's model.
        paths: name of a layer of an inner model -> its paths, such as `"base/conv1"`.

    Attributes:
        overrides: every pattern, compiled, and its config.

    Raises:
        ValueError: the pattern of an override is not a regular expression.
    """

    def __init__(
        self,
        config: QuantizationConfig,
        overrides: Overrides,
        origins: Mapping[str, str] | None = None,
        paths: Mapping[str, Collection[str]] | None = None,
    ):
        self._config = config
        self._origins = origins or {}
        self._paths = paths or {}
        self.overrides = [
            (compiled(pattern), None if value is None else configs.get(value))
            for pattern, value in overrides.items()
        ]

    def config_for(self, names: Sequence[str]) -> tuple[QuantizationConfig | None, bool]:
        """The config of the last of these layers with an override, and whether there is one."""
        for name in reversed(names):
            aliases = self.aliases(name)
            for pattern, config in self.overrides:
                if any(map(pattern.fullmatch, aliases)):
                    return config, True
        return self._config, False

    def aliases(self, name: str) -> list[str]:
        """All names by which overrides know a layer."""
        names = dict.fromkeys([name, self._origins.get(name, name)])
        return [*names, *(path for each in names for path in self._paths.get(each, ()))]

    def is_left_in_float(self, name: str) -> bool:
        """Whether an override leaves the layer (or input) `name` in float."""
        return self.config_for([name])[0] is None

    def share_one_scale(self, dense: str, normalization: str) -> bool:
        """Whether a Dense layer has one weight scale, and what is behind it the same config."""
        config, _ = self.config_for([dense])
        chosen = config is not None and config.rounds_activations and config.per_tensor_dense
        return chosen and self.config_for([normalization])[0] is config

    def computes_in_float(self, name: str) -> bool:
        """Whether it is left in float, or its config puts weights alone on grids."""
        config, _ = self.config_for([name])
        return config is None or not config.rounds_activations
