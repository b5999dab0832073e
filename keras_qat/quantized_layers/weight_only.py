"""Weight-only layers: EinsumDense, attention and Embedding, in float32 with quantized kernels."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.integer.ops import FloatWeight
from keras_qat.kernel_places import KernelPlace, kernel_places, kernels_replaced
from keras_qat.quantized_layers.learned_weight import learned_weight
from keras_qat.quantizers import WeightQuantizer
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.old_names import deserialize_weight_quantizer
from keras_qat.tensors import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class WeightOnlyKernel:
    """A kernel that a layer multiplies with in float32.

    Attributes:
        name: `"dense"`, or `"attention/query"` where the layer has several kernels.
        weight_quantizer: the `WeightQuantizer` of the kernel.
        place: the place where the layer holds the kernel.
    """

    name: str
    weight_quantizer: WeightQuantizer
    place: KernelPlace

    @property
    def kernel(self) -> Any:
        """The variable of the latent kernel, in the layout of the layer."""
        return self.place.latent

    def channels_last_kernel(self) -> Tensor:
        """The latent kernel in the shape `channels_last_shape()`."""
        return ops.reshape(as_tensor(self.place.latent), self.channels_last_shape())

    def channels_last_shape(self) -> tuple[int, ...]:
        """The kernel's shape; its last axes are joined to one if the output has the same axes.

        `(in, heads, size)` becomes `(in, heads * size)` if the output has the axes heads and size.
        """
        shape = tuple(self.place.latent.shape)
        kept = len(shape) - max(1, _output_axes_at_the_end(self.place.equation))
        return (*shape[:kept], int(np.prod(shape[kept:])))

    def in_own_layout(self, kernel: Tensor) -> Tensor:
        """Undoes `channels_last_kernel`: the kernel in the layout of the layer."""
        return ops.reshape(kernel, self.place.latent.shape)

    def learned(self) -> FloatWeight:
        """The learned integers, on their grid.

        Raises:
            LoweringError: no file can hold the codes learned so far.
        """
        return learned_weight(self.name, self.weight_quantizer, self.channels_last_kernel())


class WeightOnlyWrapper(keras.layers.Wrapper):
    """Base of the wrappers of weight-only layers: float32 arithmetic, fake-quantized kernels.

    The wrapper takes the name of its layer. The latent kernels stay float32 variables of the layer.
    Its biases and all its arithmetic are float32.

    Args:
        layer: the layer.
        weight_quantizers: the `WeightQuantizer` of each of its kernels, in the order of
            `keras_qat.kernel_places.kernel_places`.
    """

    def __init__(
        self, layer: keras.layers.Layer, weight_quantizers: Sequence[WeightQuantizer], **kwargs: Any
    ):
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", "float32")
        kwargs.setdefault("trainable", layer.trainable)
        super().__init__(layer, **kwargs)
        if not self.trainable:
            for quantizer in weight_quantizers:
                quantizer.trainable = False  # a frozen layer keeps its function
        self.weight_quantizers = list(weight_quantizers)
        self.supports_masking = layer.supports_masking

    def build(self, *shapes: Any, **more: Any) -> None:
        if not self.layer.built:
            self.layer.build(*shapes, **more)
            self.layer.built = True
        for kernel in self.kernels:
            if not kernel.weight_quantizer.built:
                kernel.weight_quantizer.build(kernel.channels_last_shape())
        self.built = True

    @property
    def kernels(self) -> tuple[WeightOnlyKernel, ...]:
        """Every kernel of the built layer."""
        found = zip(kernel_places(self.layer), self.weight_quantizers, strict=True)
        return tuple(
            WeightOnlyKernel(f"{self.name}/{place.name}" if place.name else self.name, each, place)
            for place, each in found
        )

    def call_quantized(self, training: bool | None, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer with its kernels on their grids."""
        for each in self.kernels:
            each.weight_quantizer.pulls = each.kernel.trainable
        quantized = [each.weight_quantizer(each.channels_last_kernel()) for each in self.kernels]
        return self.call_with(quantized, *args, training=training, **kwargs)

    def call_with(
        self, weights: Sequence[Tensor], *args: Any, training: bool | None = None, **kwargs: Any
    ) -> Any:
        """Calls the layer with these kernels, channels last, instead of its latent ones."""
        kernels = self.kernels
        values = [each.in_own_layout(w) for each, w in zip(kernels, weights, strict=True)]
        if "training" in inspect.signature(self.layer.call).parameters:
            kwargs["training"] = training
        with kernels_replaced([kernel.place for kernel in kernels], values):
            return self.layer(*args, **kwargs)

    def float_weights(self) -> tuple[FloatWeight, ...]:
        """The learned integers of every kernel.

        Raises:
            LoweringError: no file can hold the codes learned so far.
        """
        return tuple(kernel.learned() for kernel in self.kernels)

    def compute_mask(self, inputs: Tensor, previous_mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        quantizers = map(keras.saving.serialize_keras_object, self.weight_quantizers)
        return {**super().get_config(), "weight_quantizers": list(quantizers)}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> WeightOnlyWrapper:
        layer = keras.saving.deserialize_keras_object(config["layer"], custom_objects)
        quantizers = [
            deserialize_weight_quantizer(each, custom_objects)
            for each in config["weight_quantizers"]
        ]
        return cls(**{**config, "layer": layer, "weight_quantizers": quantizers})


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeEinsumDense(WeightOnlyWrapper):
    """`y = einsum(equation, x, w_hat) + b`, in float32."""

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return self.call_quantized(training, inputs)


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeEmbedding(WeightOnlyWrapper):
    """`y = w_hat[x]`: rows of a quantized table, one scale for each column."""

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return self.call_quantized(training, inputs)


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizeMultiHeadAttention(WeightOnlyWrapper):
    """Attention in float32 between quantized projections: query, key, value and output.

    The heads of a GroupQueryAttention share keys and values.
    """

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        super().build(query_shape, value_shape, key_shape)

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        return self.call_quantized(
            training,
            query,
            value,
            key=key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            use_causal_mask=use_causal_mask,
        )


def _output_axes_at_the_end(equation: str) -> int:
    """How many axes at the end of an einsum's kernel are also axes of the output.

    >>> _output_axes_at_the_end("abc,cde->abde"), _output_axes_at_the_end("ab,cb->ac")
    (2, 0)
    """
    operands, _, output = equation.partition("->")
    kernel = operands.rpartition(",")[2].strip()
    return len(kernel) - len(kernel.rstrip(output)) if kernel else 0
