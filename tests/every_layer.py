"""Networks of every supported layer with every option of its constructor, as a generator."""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import keras

from keras_qat.layer_rules.table import ACTIVATIONS, RULES
from tests.end_to_end.test_augmentation import ARGUMENTS, AUGMENTATIONS

layers = keras.layers

IMAGE, SEQUENCE, VECTOR = (8, 8, 4), (8, 4), (6,)

# What a layer is made with, and the shapes of what it is called on.
CONVOLUTION = {"filters": 4, "kernel_size": 3}
BASES: dict[type, tuple[list[tuple[int, ...]], dict[str, Any]]] = {
    layers.Conv1D: ([SEQUENCE], CONVOLUTION),
    layers.Conv1DTranspose: ([SEQUENCE], CONVOLUTION),
    layers.SeparableConv1D: ([SEQUENCE], CONVOLUTION),
    layers.DepthwiseConv1D: ([SEQUENCE], {"kernel_size": 3}),
    layers.Conv2D: ([IMAGE], CONVOLUTION),
    layers.Conv2DTranspose: ([IMAGE], CONVOLUTION),
    layers.SeparableConv2D: ([IMAGE], CONVOLUTION),
    layers.DepthwiseConv2D: ([IMAGE], {"kernel_size": 3}),
    layers.Dense: ([VECTOR], {"units": 4}),
    layers.EinsumDense: ([SEQUENCE], {"equation": "abc,cd->abd", "output_shape": (None, 5)}),
    layers.Embedding: ([], {"input_dim": 9, "output_dim": 4}),
    layers.MultiHeadAttention: ([SEQUENCE] * 2, {"num_heads": 2, "key_dim": 3}),
    layers.GroupQueryAttention: (
        [SEQUENCE] * 2,
        {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2},
    ),
    layers.BatchNormalization: ([IMAGE], {}),
    layers.Normalization: ([VECTOR], {"mean": 0.3, "variance": 2.0, "axis": None}),
    layers.Rescaling: ([VECTOR], {"scale": 0.5}),
    layers.GroupNormalization: ([SEQUENCE], {"groups": 2}),
    layers.Permute: ([SEQUENCE], {"dims": (2, 1)}),
    layers.Reshape: ([SEQUENCE], {"target_shape": (4, 8)}),
    layers.Flatten: ([SEQUENCE], {}),
    layers.Dot: ([SEQUENCE] * 2, {"axes": 2}),
    layers.TimeDistributed: ([SEQUENCE], {}),
    layers.RepeatVector: ([VECTOR], {"n": 3}),
    layers.CenterCrop: ([IMAGE], {"height": 5, "width": 6}),
    layers.Identity: ([VECTOR], {}),
    layers.AlphaDropout: ([VECTOR], {"rate": 0.3}),
    layers.Dropout: ([VECTOR], {"rate": 0.3}),
    layers.GaussianDropout: ([VECTOR], {"rate": 0.3}),
    layers.GaussianNoise: ([VECTOR], {"stddev": 0.3}),
    layers.SpatialDropout1D: ([SEQUENCE], {"rate": 0.3}),
    layers.SpatialDropout2D: ([IMAGE], {"rate": 0.3}),
    layers.ActivityRegularization: ([VECTOR], {"l2": 0.1}),
    layers.AveragePooling1D: ([SEQUENCE], {"pool_size": 2}),
    layers.AveragePooling2D: ([IMAGE], {"pool_size": 2}),
    layers.UpSampling1D: ([SEQUENCE], {"size": 2}),
    layers.UpSampling2D: ([IMAGE], {"size": 2}),
    layers.Activation: ([VECTOR], {"activation": "tanh"}),
}
for _kind in (layers.ZeroPadding1D, layers.Cropping1D, layers.MaxPooling1D):
    BASES[_kind] = ([SEQUENCE], {})
for _kind in (layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D):
    BASES[_kind] = ([SEQUENCE], {})
for _kind in (layers.ZeroPadding2D, layers.Cropping2D, layers.MaxPooling2D):
    BASES[_kind] = ([IMAGE], {})
for _kind in (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D):
    BASES[_kind] = ([IMAGE], {})
for _kind in (layers.Add, layers.Average, layers.Multiply, layers.Maximum, layers.Minimum):
    BASES[_kind] = ([SEQUENCE] * 3, {})
for _kind in (layers.Concatenate, layers.Subtract):
    BASES[_kind] = ([SEQUENCE] * 2, {})
for _kind in (layers.ReLU, layers.ELU, layers.LeakyReLU, layers.PReLU, layers.Softmax):
    BASES[_kind] = ([SEQUENCE], {})
for _kind in (layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization):
    BASES[_kind] = ([SEQUENCE], {})
for _kind in AUGMENTATIONS:
    _names = list(inspect.signature(_kind.__init__).parameters)[1:]
    _given = dict(zip(_names, ARGUMENTS.get(_kind, ()), strict=False))
    BASES[_kind] = ([(8, 8, 3)], _given)

FUNCTIONS = sorted(name for name in ACTIVATIONS if hasattr(keras.activations, name))

# The values that an option is given, beside its default.
OPTIONS: dict[str, list[Any]] = {
    "activation": [*FUNCTIONS, "layer: LeakyReLU", "layer: ReLU", "layer: Softmax"],
    "activity_regularizer": ["l1", "l2"],
    "alpha": [0.4],
    "alpha_regularizer": ["l2"],
    "attention_axes": [(1,)],
    "axes": [1],
    "axis": [-1],
    "beta_regularizer": ["l2"],
    "bias_axes": ["d"],
    "bias_regularizer": ["l2"],
    "center": [False],
    "cropping": [2, (0, 1)],
    "data_format": ["channels_first"],
    "depth_multiplier": [2],
    "depthwise_regularizer": ["l2"],
    "dilation_rate": [2],
    "dims": [(1, 2)],
    "embeddings_regularizer": ["l2"],
    "epsilon": [0.1],
    "filters": [1],
    "gamma_regularizer": ["l2"],
    "groups": [2],
    "interpolation": ["bilinear", "bicubic"],
    "invert": [True],
    "keepdims": [True],
    "kernel_regularizer": ["l1", "l2"],
    "kernel_size": [1, 2],
    "key_dim": [2],
    "l1": [0.1],
    "l2": [0.2],
    "mask_zero": [True],
    "max_value": [6.0, 1.5],
    "mean": [[0.1, 0.2, 0.3, 0.1, 0.2, 0.3]],
    "negative_slope": [0.1],
    "normalize": [True],
    "num_heads": [1],
    "offset": [0.3, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]],
    "output_padding": [1],
    "padding": ["same", "valid"],
    "pointwise_regularizer": ["l2"],
    "pool_size": [3, 8],
    "rate": [0.6],
    "renorm": [True],
    "scale": [False],
    "shared_axes": [[1]],
    "size": [3, 4],
    "sliding_window": [2],
    "strides": [2, 1],
    "synchronized": [True],
    "target_shape": [(2, 16), (-1,)],
    "threshold": [0.5],
    "units": [1],
    "use_bias": [False],
    "use_gate": [True],
    "value_dim": [2],
}
OF_TYPE: dict[tuple[type, str], list[Any]] = {
    (layers.Normalization, "axis"): [-1],
    (layers.Rescaling, "scale"): [-2.0, [1.0, 2.0, 0.5, 1.0, -1.0, 0.5]],
    (layers.Softmax, "axis"): [-1, 1],
    (layers.Concatenate, "axis"): [1, 2],
    (layers.BatchNormalization, "axis"): [3, 1],
    (layers.UnitNormalization, "axis"): [1],
    (layers.ZeroPadding1D, "padding"): [2, (0, 1)],
    (layers.ZeroPadding2D, "padding"): [2, ((0, 1), (2, 0))],
    (layers.Conv1DTranspose, "output_padding"): [],  # of strides alone: test_layers.py has it
    (layers.Conv2DTranspose, "output_padding"): [],
    (layers.EinsumDense, "activation"): ["relu", "tanh"],
}
NOT_VARIED = {
    **dict.fromkeys(
        ["input_dim", "output_dim", "equation", "output_shape", "head_dim"], "part of the base"
    ),
    **dict.fromkeys(["n", "height", "width", "layer"], "part of the base"),
    **dict.fromkeys(["num_query_heads", "num_key_value_heads"], "part of the base"),
    **dict.fromkeys(["l1", "l2"], "varied where it is not the base"),
    **dict.fromkeys(["momentum", "renorm_clipping", "renorm_momentum"], "of training statistics"),
    **dict.fromkeys(["seed", "stddev", "noise_shape", "dropout"], "random, in training alone"),
    **dict.fromkeys(["lora_rank", "lora_alpha", "quantization_config"], "refused before"),
    **dict.fromkeys(["gptq_unpacked_column_size"], "refused before"),
    **dict.fromkeys(["dtype", "flash_attention", "weights", "variance"], "of how, not of what"),
}
IGNORED_ENDINGS = {
    "_initializer": "weights are copied",
    "_constraint": "acts on weights in training, which the copy keeps",
}

TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose)


def refusal(case: "Case") -> str:
    """The pattern of the message that refuses a case by name; empty if it is supported."""
    if case.option == "data_format":
        return "only data_format='channels_last'"
    if case.kind is layers.UpSampling2D and case.value == "bicubic":
        return "interpolation='nearest' and 'bilinear' have a rule"
    if case.kind in TRANSPOSED and case.option == "dilation_rate":
        return "no transposed convolution with a dilation"
    if (case.kind, case.option, case.value) == (layers.BatchNormalization, "axis", 1):
        return "only the last axis can be normalized"
    if case.kind is layers.RandomShear:
        return "cannot be copied"  # Keras 3.15 does not make it from its own configuration
    return ""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A layer with one option that is not its default.

    Attributes:
        kind: the layer's type.
        option: which one; empty for none.
        value: of the option.
    """

    kind: type
    option: str = ""
    value: Any = None

    @property
    def name(self) -> str:
        return (
            f"{self.kind.__name__}({self.option}={self.value})"
            if self.option
            else (self.kind.__name__)
        )

    def layer(self) -> Any:
        _, base = BASES[self.kind]
        options = {**base, **({self.option: _made(self.value)} if self.option else {})}
        if self.kind is layers.TimeDistributed:
            options["layer"] = layers.Dense(5, activation="relu", name="inner")
        if (self.kind, self.option) == (layers.Normalization, "mean"):
            options |= {"axis": -1, "variance": [1.0, 2.0, 1.0, 0.5, 1.0, 1.0]}
        if (self.kind, self.option, self.value) == (layers.Normalization, "axis", -1):
            options |= {"mean": [0.1] * 6, "variance": [1.0, 2.0, 1.0, 0.5, 1.0, 1.0]}
        if self.option == "bias_axes":
            options["activation"] = "relu"
        return self.kind(**options, name="own")

    def network(self) -> keras.Model:
        """`before` is a linear layer in front, so that inputs are not all that has a gradient."""
        shapes, _ = BASES[self.kind]
        if not shapes:
            tokens = keras.Input((5,), dtype="int32", name="tokens")
            return keras.Model(tokens, layers.Dense(3, name="behind")(self.layer()(tokens)))
        inputs = keras.Input(shapes[0], name="numbers")
        if self.kind in AUGMENTATIONS:
            x = self.layer()(inputs)
            return keras.Model(inputs, layers.Conv2D(4, 3, name="behind")(x))
        columns = shapes[0][-1]
        first = layers.Dense(columns, name="before")(inputs)
        others = [layers.Dense(columns, name=f"other_{i}")(inputs) for i in range(len(shapes) - 1)]
        own = self.layer()
        attends = self.kind in (layers.MultiHeadAttention, layers.GroupQueryAttention)
        outputs = own(first, *others) if attends else own([first, *others] if others else first)
        return keras.Model(inputs, outputs)


def _made(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("layer: "):
        return getattr(layers, value.removeprefix("layer: "))()
    return value


def kinds() -> list[type]:
    """Every layer of Keras that has a rule."""
    found = {kind: None for kind in RULES if kind.__module__.startswith("keras.")}
    return [*found, layers.ReLU, layers.Activation]


def options_of(kind: type) -> list[str]:
    """The options of a layer's constructor, with what every layer takes, `activity_regularizer`."""
    parameters = list(inspect.signature(kind.__init__).parameters)[1:]
    for_all = ["activity_regularizer"] if "kwargs" in parameters else []
    named = [name for name in parameters if name not in ("name", "kwargs")]
    return list(dict.fromkeys([*named, *for_all]))


def values_of(kind: type, option: str) -> list[Any] | None:
    """What an option is varied to; `None` if nothing says how or why not."""
    if (kind, option) in OF_TYPE:
        return OF_TYPE[kind, option]
    if kind in AUGMENTATIONS:
        return OPTIONS[option] if option == "activity_regularizer" else []  # act in training alone
    if option in OPTIONS:
        return OPTIONS[option]
    ignored = option in NOT_VARIED or option.endswith(tuple(IGNORED_ENDINGS))
    return [] if ignored else None


def cases() -> Iterator[Case]:
    """All of them: each layer as it comes, and with each option at each value."""
    for kind in kinds():
        yield Case(kind)
        for option in options_of(kind):
            for value in values_of(kind, option) or []:
                yield Case(kind, option, value)
