"""Random small networks out of the supported layers, drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import keras
import numpy as np

import keras_qat
import keras_qat.layer_rules.table
from keras_qat.keras_graph import nodes
from tests.models import randomize

layers = keras.layers
Draw = Callable[[st.SearchStrategy[Any]], Any]

_LARGEST_SIZE = 12
_JOINED = (None, "relu", "relu6", "linear", "tanh", "silu")
_FUNCTIONS = sorted(
    name
    for name in keras_qat.layer_rules.table.ACTIVATIONS
    if hasattr(keras.activations, name) and name != "softmax"
)
_MERGES = (
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Maximum, layers.Minimum),
    *(layers.Average, layers.Concatenate),
)
_OF_ANY_COUNT = (layers.Add, layers.Multiply, layers.Average, layers.Concatenate)
_RAW = (
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: x * y,
    lambda x, y: keras.ops.maximum(x, 0.5 * y),
    lambda x, y: keras.ops.relu(x) + keras.ops.sigmoid(y),
    lambda x, y: keras.ops.where(x > 0.25, x, 0.5 * x) - y,
)
_MOVES = (
    lambda x: keras.ops.flip(x, 1),
    lambda x: keras.ops.roll(x, 1, -1),
    lambda x: keras.ops.take(x, [0, -1, 0], axis=1),
    lambda x: keras.ops.swapaxes(x, 1, -1),
    lambda x: keras.ops.concatenate(keras.ops.split(x, [1], axis=1)[::-1], axis=1),
    lambda x: keras.ops.stack(keras.ops.unstack(x, axis=-1), axis=1),
    lambda x: x[:, ::-1],
    lambda x: keras.ops.max(x, axis=-1, keepdims=True),
    lambda x: keras.ops.sum(x, axis=1, keepdims=True),
    lambda x: keras.ops.clip(x, -0.5, 1.0),
)


class RandomNetwork:
    """A network that grows by drawn steps; a step fits the tensor that it is given.

    Args:
        draw: hypothesis' function, for every choice.
    """

    def __init__(self, draw: Draw):
        self._draw = draw
        self._count = 0
        keras.utils.set_random_seed(draw(st.integers(0, 999)))

    def model(self) -> keras.Model:
        """One or two inputs, two to six steps, perhaps a head, one output or two."""
        shape = self._one_of((8, 8, 3), (7, 6, 2), (5, 8, 4), (12, 3), (9, 2))
        inputs = [keras.Input(shape, name="input")]
        x = inputs[0]
        if self._rarely():
            inputs.append(keras.Input(shape, name="other_input"))
            x = self._merged([x, inputs[1]])
        made = []
        for _ in range(self._draw(st.integers(2, 6))):
            x = self._step(x)
            made.append(x)
        outputs = [self._head(x) if self._draw(st.booleans()) else x]
        other = self._one_of(*made)
        if self._rarely() and other is not outputs[0]:
            outputs.append(other)
        alone = inputs if len(inputs) > 1 else inputs[0]
        return randomize(keras.Model(alone, outputs, name="random"))

    def _step(self, x: Any) -> Any:
        steps = [self._normalization, self._function, self._dense, self._branches, self._raw]
        if len(x.shape) > 2:
            steps += [self._convolution] * 3 + [self._depthwise, self._separable, self._transposed]
            steps += [self._pooling, self._global_pooling, self._padding, self._cropping]
            steps += [self._upsampling, self._moved, self._excite, self._shared, self._reordered]
        else:
            steps.append(self._unfolded)
        return self._one_of(*steps)(x)

    def _one_of(self, *choices: Any) -> Any:
        return choices[self._draw(st.integers(0, len(choices) - 1))]

    def _rarely(self) -> bool:
        return self._draw(st.integers(0, 3)) == 3

    def _new(self, kind: type, *args: Any, **options: Any) -> Any:
        self._count += 1
        name = f"n{self._count}_{kind.__name__.lower()}"  # no raw operation is called so
        return kind(*args, **options, name=name)

    def _windowed(self, x: Any, name: str) -> type:
        kind: type = getattr(layers, f"{name}{len(x.shape) - 2}D")
        return kind

    def _spread(self, x: Any, low: int, high: int) -> Any:
        """A size for each axis of space."""
        sizes = st.integers(low, high)
        return tuple(self._draw(sizes) for _ in x.shape[1:-1])

    def _kernel(self, x: Any) -> tuple[int, ...]:
        return tuple(min(k, s) for k, s in zip(self._spread(x, 1, 3), x.shape[1:-1], strict=True))

    def _window(self, x: Any) -> dict[str, Any]:
        """A kernel that fits, its strides and its padding."""
        return {
            "kernel_size": self._kernel(x),
            "strides": self._draw(st.integers(1, 2)),
            "padding": self._one_of("valid", "same"),
        }

    def _weights(self) -> dict[str, Any]:
        return {"use_bias": self._draw(st.booleans()), "activation": self._one_of(*_JOINED)}

    def _filters(self) -> int:
        return self._draw(st.integers(1, 6))

    def _convolution(self, x: Any) -> Any:
        options = {**self._window(x), **self._weights()}
        if len(x.shape) == 3 and self._rarely():
            options["padding"] = "causal"
        return self._new(self._windowed(x, "Conv"), self._filters(), **options)(x)

    def _depthwise(self, x: Any) -> Any:
        options = {**self._window(x), "depth_multiplier": self._draw(st.integers(1, 2))}
        return self._new(self._windowed(x, "DepthwiseConv"), **options, **self._weights())(x)

    def _separable(self, x: Any) -> Any:
        options = {**self._window(x), **self._weights()}
        return self._new(self._windowed(x, "SeparableConv"), self._filters(), **options)(x)

    def _transposed(self, x: Any) -> Any:
        options = {**self._window(x), **self._weights()}
        if max(x.shape[1:-1]) > _LARGEST_SIZE // 2:
            options["strides"] = 1
        if min(options["kernel_size"]) < options["strides"]:
            options["padding"] = "valid"
        return self._new(self._transposed_kind(x), self._filters(), **options)(x)

    def _transposed_kind(self, x: Any) -> type:
        return layers.Conv1DTranspose if len(x.shape) == 3 else layers.Conv2DTranspose

    def _dense(self, x: Any) -> Any:
        return self._new(layers.Dense, self._filters(), **self._weights())(x)

    def _normalization(self, x: Any) -> Any:
        kind = self._one_of(
            layers.BatchNormalization,
            layers.BatchNormalization,
            layers.Rescaling,
            layers.Normalization,
        )
        if kind is layers.Rescaling:
            return self._new(kind, self._one_of(0.5, -1.5, 3.0), self._one_of(0.0, 0.25))(x)
        if kind is layers.Normalization:
            return self._new(kind, mean=0.3, variance=2.0, axis=None)(x)
        return self._new(kind)(x)

    def _function(self, x: Any) -> Any:
        kind = self._draw(st.integers(0, 7))
        if kind < 2:
            return self._new(layers.ReLU, max_value=(None, 6.0)[kind])(x)
        if kind == 2:
            return self._new(layers.ReLU, max_value=5.0, negative_slope=0.1, threshold=0.5)(x)
        if kind == 3:
            return self._new(self._one_of(layers.LeakyReLU, layers.ELU, layers.Dropout), 0.2)(x)
        if kind == 4:
            first = self._draw(st.integers(0, 2))  # all share a slope, or channels, or none
            shared = list(range(1, len(x.shape)))[: (None, -1, 0)[first]]
            slope = keras.initializers.Constant(0.3)
            return self._new(layers.PReLU, slope, shared_axes=shared)(x)
        return self._new(layers.Activation, self._one_of(*_FUNCTIONS))(x)

    def _pooling(self, x: Any) -> Any:
        kind = self._windowed(x, self._one_of("MaxPooling", "AveragePooling"))
        whole = self._rarely()  # a mean or a maximum of all pixels
        return self._new(
            kind,
            tuple(x.shape[1:-1]) if whole else self._kernel(x),
            strides=self._draw(st.integers(1, 2)),
            padding=self._one_of("valid", "same"),
        )(x)

    def _global_pooling(self, x: Any) -> Any:
        kind = self._windowed(x, self._one_of("GlobalAveragePooling", "GlobalMaxPooling"))
        return self._new(kind, keepdims=self._draw(st.booleans()))(x)

    def _padding(self, x: Any) -> Any:
        if max(x.shape[1:-1]) > _LARGEST_SIZE - 2:
            return self._cropping(x)
        return self._new(self._windowed(x, "ZeroPadding"), self._edges(x, 2))(x)

    def _cropping(self, x: Any) -> Any:
        if min(x.shape[1:-1]) < 3:
            return self._normalization(x)
        return self._new(self._windowed(x, "Cropping"), self._edges(x, 1))(x)

    def _edges(self, x: Any, most: int) -> Any:
        edges = [
            (self._draw(st.integers(0, most)), self._draw(st.integers(0, 1))) for _ in x.shape[1:-1]
        ]
        return edges[0] if len(edges) == 1 else tuple(edges)

    def _upsampling(self, x: Any) -> Any:
        if max(x.shape[1:-1]) > _LARGEST_SIZE // 2:
            return self._pooling(x)
        if len(x.shape) == 3:
            return self._new(layers.UpSampling1D, 2)(x)
        kind = self._one_of("nearest", "bilinear")
        size = (self._draw(st.integers(1, 2)), 2)
        return self._new(layers.UpSampling2D, size, interpolation=kind)(x)

    def _moved(self, x: Any) -> Any:
        axes = list(range(1, len(x.shape)))
        if self._draw(st.booleans()):
            return self._new(layers.Permute, self._draw(st.permutations(axes)))(x)
        if self._rarely():
            return self._new(layers.Flatten)(x)
        *space, channels = x.shape[1:]
        return self._new(layers.Reshape, (*space[::-1], channels))(x)

    def _reordered(self, x: Any) -> Any:
        """Raw operations that move values, or that look along another axis."""
        kept = [move for move in _MOVES if x.shape[1] > 1 or "split" not in move.__code__.co_names]
        return self._one_of(*kept)(x)

    def _unfolded(self, x: Any) -> Any:
        """Features become a sequence, or an image of one pixel."""
        shape = self._one_of((x.shape[-1], 1), (1, 1, x.shape[-1]))
        return self._new(layers.Reshape, shape)(x)

    def _excite(self, x: Any) -> Any:
        """A squeeze-and-excite block."""
        channels = x.shape[-1]
        pool = self._windowed(x, "GlobalAveragePooling")
        kept = self._draw(st.booleans())
        y = self._new(pool, keepdims=True)(x) if kept or len(x.shape) == 3 else self._new(pool)(x)
        y = self._new(layers.Dense, 2, activation="relu")(y)
        gate = self._one_of("sigmoid", "hard_sigmoid", "relu6")
        y = self._new(layers.Dense, channels, activation=gate)(y)
        return self._new(layers.Multiply)([x, y] if self._draw(st.booleans()) else [y, x])

    def _shared(self, x: Any) -> Any:
        """One layer, called twice."""
        channels = x.shape[-1]
        size = min(3, *x.shape[1:-1])
        conv = self._new(
            self._windowed(x, "Conv"), channels, size, padding="same", **self._weights()
        )
        if self._draw(st.booleans()):
            return conv(self._function(conv(x)))
        return self._merged([conv(x), conv(self._function(x))])

    def _branches(self, x: Any) -> Any:
        """Branches of one shape, or one with a number for each channel, that meet again."""
        branches = [self._branch(x) for _ in range(self._draw(st.integers(2, 3)))]
        return self._merged(branches)

    def _branch(self, x: Any) -> Any:
        kind = self._draw(st.integers(0, 4))
        if kind == 0:
            return x
        if kind == 1:
            return self._function(x)
        if kind == 2:
            return self._normalization(x)
        if kind == 3 and len(x.shape) > 2:
            size = min(3, *x.shape[1:-1])
            conv = self._windowed(x, "Conv")
            return self._new(conv, x.shape[-1], size, padding="same", **self._weights())(x)
        return self._new(layers.Dense, x.shape[-1], **self._weights())(x)

    def _merged(self, branches: list[Any]) -> Any:
        kind = self._one_of(*_MERGES)
        if kind not in _OF_ANY_COUNT:
            branches = branches[:2]
        space = len(branches[0].shape) > 2
        if space and kind is not layers.Concatenate and self._rarely():
            pool = self._windowed(branches[1], "GlobalAveragePooling")
            branches[1] = self._new(pool, keepdims=True)(branches[1])
        return self._new(kind)(branches)

    def _raw(self, x: Any) -> Any:
        """Operations without a layer of their own."""
        return self._one_of(*_RAW)(x, self._branch(x))

    def _head(self, x: Any) -> Any:
        if len(x.shape) > 2:
            x = (
                self._new(layers.Flatten)(x)
                if self._draw(st.booleans())
                else (self._new(self._windowed(x, "GlobalAveragePooling"))(x))
            )
        x = self._new(layers.Dense, 3)(x)
        return self._new(layers.Softmax)(x) if self._draw(st.booleans()) else x


@st.composite
def networks(draw: Draw) -> keras.Model:
    """A network with random weights and statistics."""
    return RandomNetwork(draw).model()


_CONFIGS = (keras_qat.LSQConfig, keras_qat.STEConfig, keras_qat.DoReFaConfig)


@st.composite
def configs(draw: Draw) -> keras_qat.QuantizationConfig:
    """Any widths, of any published grid with fixed widths."""
    names = ("weight_bits", "activation_bits", "first_and_last_bits", "input_bits", "add_bits")
    bits = {name: 9 - draw(st.integers(1, 8)) for name in names}
    scales = {name: draw(st.booleans()) for name in ("per_channel", "per_tensor_dense")}
    return draw(st.sampled_from(_CONFIGS))(**bits, **scales)


def inputs_of(model: keras.Model, scale: float, signed: bool, count: int = 4) -> Any:
    """Random numbers for every input, an array or a dict by name."""
    rng = np.random.default_rng(len(model.layers))
    arrays = {}
    for tensor in model.inputs:
        values = scale * rng.normal(size=(count, *tensor.shape[1:])).astype(np.float32)
        arrays[tensor.name] = values if signed else np.abs(values)
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def described(model: keras.Model) -> str:
    """The calls of a network, one a line, for people who have to find what failed."""
    names = {id(tensor): tensor.name for tensor in model.inputs}
    lines = []
    for node in nodes(model):
        layer = node.operation
        names |= {id(tensor): layer.name for tensor in node.outputs}
        config = layer.get_config() if isinstance(layer, layers.Layer) else {}
        said = {key: value for key, value in config.items() if key in _SAID}
        sources = [names[id(tensor)] for tensor in node.inputs]
        lines.append(f"{layer.name}({', '.join(sources)}) {node.outputs[0].shape[1:]} {said}")
    return "\n".join(lines)


_SAID = (
    "filters",
    "units",
    "kernel_size",
    "strides",
    "padding",
    "activation",
    "use_bias",
    "pool_size",
    "keepdims",
    "dims",
    "target_shape",
    "max_value",
    "interpolation",
    "size",
    "depth_multiplier",
    "scale",
    "offset",
    "cropping",
    "axis",
)
