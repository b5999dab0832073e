"""Checks of a model before `quantize` does anything with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from keras_qat.keras_graph import consumers, flat_nodes, input_name, input_structure, layer_name
from keras_qat.quantized_layers import QuantizeWrapper, WeightOnlyWrapper
from keras_qat.quantizers import Quantizer
from keras_qat.quantizers.initial_scale import LARGEST_VALUE
from keras_qat.training.finite_values import non_finite_values, too_large_values

_OTHER_FLOATS = {"bfloat16", "float16", "float64"}


def check_model(model: Any) -> None:
    """Raises ValueError unless `model` is a float Keras 3 model."""
    if type(model).__module__.startswith("tf_keras"):
        raise ValueError(
            "This is a Keras 2 (tf_keras) model. Rebuild it with Keras 3 (`import keras`), copy "
            "its weights with set_weights, and quantize that. If TFMOT made it, or it is saved as "
            f".h5, call keras_qat.from_tfmot. Received: {type(model).__name__}"
        )
    if not isinstance(model, keras.Model):
        raise ValueError(f"quantize() takes a keras.Model. Received: {type(model).__name__}")
    if isinstance(model, keras.Sequential) and not model.layers:
        raise _without_layers(model)
    if keras.config.floatx() != "float32":
        raise ValueError(
            "Quantizers compute in float32. Call keras.config.set_floatx('float32') and rebuild "
            f"the model. Received: keras.config.floatx() is {keras.config.floatx()!r}"
        )


def check_graph(model: keras.Model) -> None:
    """Raises ValueError for a layer graph that cannot be quantized.

    Such a graph has no layers, unsorted keys of inputs, or a layer that is quantized already, has
    LoRA weights, or has weights other than float32.
    """
    _check_input_keys(model)
    _check_sizes(model)
    _check_ends(model)
    operations = [node.operation for node in flat_nodes(model)]
    if not operations:
        raise _without_layers(model)
    for layer in operations:
        _check_layer(layer)


def _check_input_keys(model: keras.Model) -> None:
    structure = input_structure(model)
    is_other_dict = isinstance(structure, dict) and type(structure) is not dict
    if is_other_dict and list(structure) != sorted(structure):
        raise ValueError(
            f"The model {model.name!r} was built on a {type(structure).__name__} of inputs whose "
            f"keys are not sorted, {list(structure)}. Keras uses this order in some places and "
            "sorted keys in others. Rebuild it on a plain dict."
        )


def _check_ends(model: keras.Model) -> None:
    """Integer networks have no input that nothing reads, and list each output once."""
    readers = consumers(model)
    for tensor in model.inputs:
        if id(tensor) not in readers:
            raise ValueError(
                f"No layer of the model {model.name!r} reads its input {input_name(tensor)!r}: "
                "build the model without it."
            )
    names = [layer_name(tensor) for tensor in model.outputs]
    seen = {id(tensor) for tensor in model.outputs}
    if len(seen) < len(names):
        raise ValueError(
            f"The model {model.name!r} lists an output twice. Received: outputs of the layers "
            f"{names}. List each output once."
        )


def _check_sizes(model: keras.Model) -> None:
    tensors = [(tensor, f"Input {input_name(tensor)!r}") for tensor in model.inputs]
    for node in flat_nodes(model):
        tensors += [(tensor, f"Layer {node.operation.name!r}") for tensor in node.outputs]
    for tensor, owner in tensors:
        if 0 in tensor.shape:
            raise ValueError(
                f"{owner} yields tensors of the shape {tuple(tensor.shape)}, which hold nothing: "
                "every size must be 1 or more. Build the model with other sizes."
            )


def _check_layer(layer: Any) -> None:
    if isinstance(layer, QuantizeWrapper | WeightOnlyWrapper | Quantizer):
        raise ValueError(
            f"Layer {layer.name!r} is quantized already: put the float model inside, and quantize "
            f"the whole. Received: {type(layer).__name__}"
        )
    mode = getattr(layer, "quantization_mode", None)
    if mode is not None:
        raise ValueError(
            f"Layer {layer.name!r} was quantized by Keras itself: quantize the float model. "
            f"Received: quantization_mode={mode!r}"
        )
    if getattr(layer, "lora_enabled", False):
        raise ValueError(
            f"Layer {layer.name!r} has LoRA weights beside its kernel. Merge them: save the "
            "weights, load them into a model without enable_lora, and quantize that."
        )
    found = {variable.dtype for variable in getattr(layer, "variables", ())}
    found |= {getattr(layer, "compute_dtype", None)} & {"float64"}
    if found & _OTHER_FLOATS:
        raise ValueError(
            f"Layer {layer.name!r} has the dtype {min(found & _OTHER_FLOATS)}: quantization-aware "
            "training keeps float32 weights. Rebuild the model with the dtype policy 'float32' or "
            "a mixed one, copy the weights with set_weights, and quantize that. "
            f"Received: {layer.dtype_policy.name!r}"
        )


def check_weights(layers: Iterable[Any]) -> None:
    """Raises ValueError if weights of layers are not finite or too large for quantization."""
    for layer in layers:
        for name, count, size in non_finite_values(layer):
            raise ValueError(
                f"The weights of layer {layer.name!r} hold NaN or infinity, in {count} of {size} "
                f"values of {name!r}."
            )
        for name, largest in too_large_values(layer):
            raise ValueError(
                f"The weights of layer {layer.name!r} are too large, in {name!r}: products beyond "
                f"{LARGEST_VALUE:.0e} overflow float32. Received: {largest:.3g}"
            )


def _without_layers(model: keras.Model) -> ValueError:
    return ValueError(f"The model {model.name!r} has no layers: there is nothing to quantize.")
