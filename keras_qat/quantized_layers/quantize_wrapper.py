"""`QuantizeWrapper`: an untouched weight layer and the quantizer of its kernel."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.arithmetic import RoundsAsTarget
from keras_qat.integer.ops import FloatWeight
from keras_qat.lowering.pending import Pending
from keras_qat.quantized_layers.learned_weight import learned_weight
from keras_qat.quantized_layers.target_codes import values_of_target
from keras_qat.quantizers import WeightQuantizer
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.int8_grids import chosen
from keras_qat.quantizers.old_names import deserialize_weight_quantizer
from keras_qat.tensors import Tensor


class QuantizeWrapper(RoundsAsTarget, keras.layers.Wrapper):
    """Base of the wrappers: runs a layer with its kernel fake-quantized.

    A subclass is for one layer type. It defines the kernel with its output channels last
    (`channels_last_kernel`), the forward pass with a given kernel (`forward`), and the layer in
    integers (`lower`).

    In inference the bias lies on the grid of the integer model's int32 bias. Every call of the
    layer has its own such grid (`connections`, by the call argument `source`). Where no grid is
    before or behind the layer, as with `activation_bits=None`, it computes in float32 and the bias
    stays as it is.

    The wrapper takes the name of its layer. The latent kernel stays a float32 variable of the
    layer. The quantizer computes in float32 under every dtype policy, and the layer in its compute
    dtype.

    Args:
        layer: the weight layer, with a linear activation.
        weight_quantizer: the `WeightQuantizer` of its kernel.
        input_gain: factor of a Rescaling before the layer, by which the quantized kernel is
            multiplied instead of the input.
    """

    packed_in_litert = False  # whether LiteRT has fast kernels for INT4 and INT2 weights
    one_scale = False  # whether all output channels have one weight scale in a file, too

    def __init__(
        self,
        layer: keras.layers.Layer,
        weight_quantizer: WeightQuantizer,
        input_gain: float = 1.0,
        **kwargs: Any,
    ):
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", "float32")
        kwargs.setdefault("trainable", layer.trainable)
        kwargs.setdefault("activity_regularizer", layer.activity_regularizer)
        super().__init__(layer, **kwargs)
        if not self.trainable:
            weight_quantizer.trainable = False  # a frozen layer keeps its function
        self.weight_quantizer = weight_quantizer
        self.input_gain = float(input_gain)
        self.supports_masking = layer.supports_masking
        self.connections: dict[int, Any] = {}

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        if not self.weight_quantizer.built:
            self.weight_quantizer.build(self.channels_last_kernel().shape)
        self.built = True

    def call(self, x: Tensor, source: int = 0, training: bool = False) -> Tensor:
        self.weight_quantizer.pulls = self.kernel.trainable

        def in_float() -> Tensor:
            quantized = self.weight_quantizer(self.channels_last_kernel())
            bias = self.bias() if training else self.deployed_bias(source)
            return self._with_bias(x, quantized, bias)

        told = self.connections.get(source)
        if training or not self._computes_for(told):
            return in_float()
        return chosen(self.has_integers(), lambda: self._on_target(x, told), in_float)

    def has_integers(self) -> Any:
        """Whether int8 can hold what has been learned so far, for every call of the layer.

        And for every call of the layers that share an affine map with it.
        """
        sharing = (getattr(told, "sharing", ()) for told in self.connections.values())
        layers = dict.fromkeys([self, *itertools.chain(*sharing)])
        found = [told.has_integers() for each in layers for told in each.connections.values()]
        if all(each is True for each in found):
            return True
        return ops.all(ops.stack([ops.cast(each, "bool") for each in found]))

    def computes_on_target(self) -> bool:
        """Whether all calls of the layer yield the codes of the target. It reads variables."""
        return all(map(self._computes_for, self.connections.values())) and bool(self.has_integers())

    def _computes_for(self, told: Any) -> bool:
        """Whether the layer computes its codes itself, its neighbours included."""
        return self.arithmetic.fixed_point and told is not None and told.folded_by is self

    def _on_target(self, x: Tensor, told: Any) -> Tensor:
        def forward(x: Tensor, kernel: Tensor) -> Tensor:
            return self.forward(x, self.in_own_layout(kernel))

        outputs = values_of_target(
            x,
            self.weight_quantizer.codes(self.channels_last_kernel()),
            self.weight_quantizer.scale,
            self.bias(),
            forward,
            told.neighbours,
            self.arithmetic.weight_bits == 4 and getattr(self.layer, "groups", 1) == 1,
            self.input_gain,
            self.one_scale,
        )
        return ops.cast(outputs, self.layer.compute_dtype)

    def call_with(self, weights: Sequence[Tensor], x: Tensor, training: bool = False) -> Tensor:
        """Calls the layer in float with this kernel, channels last, instead of its latent one."""
        (kernel,) = weights
        return self._with_bias(x, kernel, self.bias())

    def _with_bias(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        if self.input_gain != 1.0:
            kernel = kernel * self.input_gain
        dtype = self.layer.compute_dtype
        outputs = self.forward(ops.cast(x, dtype), ops.cast(self.in_own_layout(kernel), dtype))
        return outputs if bias is None else ops.add(outputs, ops.cast(bias, dtype))

    @property
    def kernel(self) -> Any:
        """The variable of the latent kernel, in the layout of the layer."""
        return self.layer.kernel

    def bias(self) -> Tensor | None:
        """The latent bias, one number for each output channel; `None` without one."""
        return as_tensor(self.layer.bias) if self.layer.use_bias else None

    def deployed_bias(self, source: int = 0) -> Tensor | None:
        """The bias in inference: rounded to the grid of the int32 bias where the grids are known.

        Training keeps the real bias: the BatchNormalization behind it still moves, and a step of
        the int32 bias is far smaller than a step of any activation.
        """
        if source not in self.connections:
            return self.bias()
        bias, kernel = self.bias(), self.channels_last_kernel()
        if bias is None:
            bias = ops.zeros(kernel.shape[-1:])
        packed = self.packed_in_litert and not self.arithmetic.fixed_point
        weight_bits = self.arithmetic.weight_bits if packed else 8
        return self.connections[source].round_bias(bias, kernel, weight_bits)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def channels_last_kernel(self) -> Tensor:
        """The latent kernel in a shape whose last axis counts the output channels."""
        return as_tensor(self.layer.kernel)

    def in_own_layout(self, kernel: Tensor) -> Tensor:
        """Undoes `channels_last_kernel`: the kernel in the layout of the layer."""
        return ops.reshape(kernel, self.layer.kernel.shape)

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        """The layer's output for this kernel, without the bias."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(x, kernel)")

    def lower(self, tensor: str, source: int = 0) -> Pending:
        """The layer in integers, on the integer tensor `tensor`, for the call number `source`."""
        raise NotImplementedError(f"{type(self).__name__} must implement lower(tensor, source)")

    def weight_codes(self) -> npt.NDArray[np.int32]:
        """The learned integers, with the output channels on the last axis.

        Raises:
            LoweringError: no file can hold the codes learned so far.
        """
        return self.weight_quantizer.deployed_codes(self.channels_last_kernel(), self.name)

    def float_weights(self) -> tuple[FloatWeight, ...]:
        """The learned integers of the kernel, for a call in float.

        Raises:
            LoweringError: no file can hold the codes learned so far.
        """
        return (learned_weight(self.name, self.weight_quantizer, self.channels_last_kernel()),)

    def learned(self, source: int = 0) -> dict[str, Any]:
        """Scale and bias of every output channel for the call `source`, and the bit width."""
        kernel = self.channels_last_kernel()
        channels = kernel.shape[-1]
        scale = ops.convert_to_numpy(self.weight_quantizer.scale).astype(np.float64)
        scale = scale * self.input_gain
        bias = self.deployed_bias(source)
        if self._computes_for(self.connections.get(source)):
            bias = self.bias()  # the target's op rounds it once, with the affine maps folded in
        bias = 0.0 if bias is None else ops.convert_to_numpy(bias).astype(np.float64)
        return {
            "scale": np.broadcast_to(scale, (channels,)),
            "bias": np.broadcast_to(bias, (channels,)),
            "weight_bits": self.weight_quantizer.learned_bits(kernel),
        }

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weight_quantizer": keras.saving.serialize_keras_object(self.weight_quantizer),
            "input_gain": self.input_gain,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> QuantizeWrapper:
        layer = keras.saving.deserialize_keras_object(config["layer"], custom_objects)
        quantizer = deserialize_weight_quantizer(config["weight_quantizer"], custom_objects)
        return cls(**{**config, "layer": layer, "weight_quantizer": quantizer})
