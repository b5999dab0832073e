"""Writes `layers.md`, the table of supported layers: `python docs/make_layers.py`.

`keras_qat.layer_rules.table` knows which layers train, and `tflite_export.ops.table` which targets
run an integer op. This script adds the integer ops of each rule, and its restrictions in words.
"""

from __future__ import annotations

import pathlib
import textwrap
from typing import Any

import keras

from keras_qat import quantized_layers
from keras_qat.integer import ops
from keras_qat.layer_rules.rule import Output
from keras_qat.layer_rules.table import ACTIVATIONS, RULES, Rule
from keras_qat.lowering import activation, affine, merge, pointwise, pooling, shape
from keras_qat.quantization.passes.raw_operations import supported_operations
from tflite_export.ops.table import runs_on

layers = keras.layers
PATH = pathlib.Path(__file__).parent / "layers.md"
TARGET_NAMES = {"litert": "LiteRT", "tflm": "TFLite Micro"}

_ON_ROWS = (ops.Reshape,)
OPS: dict[Any, tuple[type[ops.IntegerOp], ...]] = {
    quantized_layers.QuantizeConv1D: (ops.Conv2D, ops.Pad, *_ON_ROWS),
    quantized_layers.QuantizeConv1DTranspose: (ops.TransposeConv2D, *_ON_ROWS),
    quantized_layers.QuantizeConv2D: (ops.Conv2D,),
    quantized_layers.QuantizeConv2DTranspose: (ops.TransposeConv2D,),
    quantized_layers.QuantizeDense: (ops.FullyConnected,),
    quantized_layers.QuantizeDepthwiseConv1D: (ops.DepthwiseConv2D, *_ON_ROWS),
    quantized_layers.QuantizeDepthwiseConv2D: (ops.DepthwiseConv2D,),
    layers.PReLU: (ops.PReLU, ops.Lookup),
    activation.lower_relu: (ops.Maximum,),
    activation.lower_relu6: (ops.Maximum, ops.Minimum),
    activation.lower_softmax: (ops.Softmax,),
    affine.lower_affine: (ops.DepthwiseConv2D, ops.Reshape),
    merge.lower_add: (ops.Add,),
    merge.lower_concatenate: (ops.Concatenate,),
    merge.lower_maximum: (ops.MaximumOfTwo,),
    merge.lower_minimum: (ops.MinimumOfTwo,),
    merge.lower_multiply: (ops.Mul,),
    merge.lower_subtract: (ops.Sub,),
    pointwise.lower_pointwise: (ops.Lookup,),
    pooling.lower_average_pooling: (ops.AveragePool2D,),
    pooling.lower_global_average: (ops.Mean,),
    pooling.lower_global_max: (ops.MaxPool2D,),
    pooling.lower_max_pooling: (ops.MaxPool2D,),
    shape.lower_center_crop: (ops.Crop,),
    shape.lower_cropping: (ops.Crop,),
    shape.lower_identity: (),
    shape.lower_interpolation: (ops.InterpolatePixels,),
    shape.lower_permute: (ops.Transpose,),
    shape.lower_repeat_vector: (ops.Gather, ops.Reshape),
    shape.lower_reshape: (ops.Reshape,),
    shape.lower_upsampling: (ops.RepeatPixels,),
    shape.lower_zero_padding: (ops.Pad,),
}
"""The integer ops of a rule, by its wrapper, its lower function, or the layer itself."""

REPLACED_BY: dict[type, tuple[type, ...]] = {
    layers.Average: (layers.Add, layers.Rescaling),
    layers.SeparableConv1D: (layers.DepthwiseConv1D, layers.Conv1D),
    layers.SeparableConv2D: (layers.DepthwiseConv2D, layers.Conv2D),
    layers.TimeDistributed: (layers.Cropping1D, layers.Reshape, layers.Concatenate),
}
"""Layers that become others before anything else, and so have no integer ops of their own."""

_LAST_AXIS = "the last axis only"
_SIZES = "two tensors or more; sizes equal, or 1"
_TRANSPOSED = "no dilation; `padding='same'` with a kernel at least as large as the strides"
_QUANTIZED_WEIGHTS = "quantized weights, float32 arithmetic"
_AVERAGE_WINDOW = "windows of at most 256 values, or all of them; not behind Softmax"
NOTES: dict[type, str] = {
    layers.Add: _SIZES,
    layers.Average: _SIZES,
    layers.AveragePooling1D: _AVERAGE_WINDOW,
    layers.AveragePooling2D: _AVERAGE_WINDOW,
    layers.BatchNormalization: _LAST_AXIS + "; folds into the weight layer before it",
    layers.Concatenate: "not over the batch; not of a Softmax and other tensors",
    layers.Conv1DTranspose: _TRANSPOSED,
    layers.Conv2DTranspose: _TRANSPOSED,
    layers.Dropout: "leaves no op behind",
    layers.EinsumDense: _QUANTIZED_WEIGHTS,
    layers.Embedding: _QUANTIZED_WEIGHTS + "; of an input of integers (`dtype='int32'`)",
    layers.GroupQueryAttention: _QUANTIZED_WEIGHTS,
    **dict.fromkeys(
        (
            layers.Dot,
            layers.GroupNormalization,
            layers.LayerNormalization,
            layers.RMSNormalization,
            layers.UnitNormalization,
        ),
        "float32 arithmetic",
    ),
    layers.Maximum: _SIZES,
    layers.Minimum: _SIZES,
    layers.MultiHeadAttention: _QUANTIZED_WEIGHTS,
    layers.Multiply: _SIZES,
    layers.Normalization: "the last axis, or all at once",
    layers.PReLU: "one slope is a table; others have 8 bits",
    layers.ReLU: "any limits; all but ReLU and ReLU6 are a table",
    layers.Rescaling: (
        "one number, or one for each channel; one positive factor of an input that weight layers "
        "read is no op"
    ),
    layers.CenterCrop: "of images of a known size, which it does not enlarge",
    layers.RandomCrop: "of images that have its size already: in inference Keras does not crop",
    layers.Softmax: "over another axis it stands between two Permute",
    layers.Subtract: _SIZES,
    layers.TimeDistributed: (
        "its layer on the last axis, as a Dense, and else on every step, for up to 32 steps"
    ),
    layers.UpSampling2D: (
        "nearest; bilinear for sizes that are powers of two, with a product up to 256"
    ),
}

_HEAD = """# Layers

Written by `docs/make_layers.py`; do not edit. A layer that is listed trains. Its columns say which
ops of the integer model it may become, and whether all of them run in a target. A layer with a
`data_format` takes `"channels_last"`; `activation=` takes any function of the second table. A model
with anything else ends in one error that names it all. A `FloatPart` computes in float32 between
two grids, on its own: weights are trained on their grids, and a file holds their integers.
"""
_LAYERS_HEAD = """
| layer | integer ops | LiteRT | TFLite Micro | restrictions |
|---|---|---|---|---|
"""
_FUNCTIONS_HEAD = """
## Functions

As `activation=` or in an `Activation` layer. A table has 256 values between an 8-bit input and the
output.

| function | integer ops | LiteRT | TFLite Micro |
|---|---|---|---|
"""


_OPERATIONS_HEAD = """
## Raw operations

Operations of `keras.ops` and slices, by the names of their classes. These become layers of the
tables above, over any axis but the examples. Runtimes move integers with RESHAPE, TRANSPOSE,
STRIDED_SLICE, GATHER and CONCATENATION:

{layers}

These compute a function of one number where all their other arguments are numbers, alone or several
together, and become a table of 256 values:

{tables}
"""


def integer_ops(kind: type, rule: Rule) -> tuple[type[ops.IntegerOp], ...]:
    """The ops that a layer can become; a `KeyError` where `OPS` does not state them."""
    if kind in REPLACED_BY:
        parts = (each for part in REPLACED_BY[kind] for each in integer_ops(part, RULES[part]))
        return tuple(dict.fromkeys(parts))
    if rule.output is Output.FLOAT:
        return (ops.FloatPart,)
    return OPS[rule.wrapper or rule.lower or kind]


def render() -> str:
    """The whole file."""
    kinds = [kind for kind in RULES if kind.__module__.startswith("keras.")]
    rows = [_row(kind, integer_ops(kind, RULES[kind])) for kind in kinds]
    rows.append(_row(layers.ReLU, (ops.Maximum, ops.Minimum, ops.Lookup)))
    functions: dict[tuple[type[ops.IntegerOp], ...], list[str]] = {}
    for name, rule in ACTIVATIONS.items():
        if hasattr(keras.activations, name):
            functions.setdefault(OPS[rule.lower], []).append(f"`{name}`")
    groups = [
        f"| {', '.join(sorted(names))} | {_names(used)} | {_cells(used)} |"
        for used, names in functions.items()
    ]
    lines = [_HEAD, _LAYERS_HEAD, *(f"{row}\n" for row in sorted(rows)), _FUNCTIONS_HEAD]
    lines += [f"{group}\n" for group in groups]
    as_layers, as_tables = (_wrapped(names) for names in supported_operations())
    return "".join([*lines, _OPERATIONS_HEAD.format(layers=as_layers, tables=as_tables)])


def _wrapped(names: list[str]) -> str:
    return textwrap.fill(", ".join(names), width=110)


def _row(kind: type, used: tuple[type[ops.IntegerOp], ...]) -> str:
    return f"| {kind.__name__} | {_names(used)} | {_cells(used)} | {NOTES.get(kind, '')} |"


def _names(used: tuple[type[ops.IntegerOp], ...]) -> str:
    return ", ".join(each.__name__ for each in used) or "none"


def _cells(used: tuple[type[ops.IntegerOp], ...]) -> str:
    """Whether each target runs all of these ops."""
    runs = (all(runs_on(each, target) for each in used) for target in TARGET_NAMES)
    return " | ".join("yes" if each else "no" for each in runs)


if __name__ == "__main__":
    PATH.write_text(render())
