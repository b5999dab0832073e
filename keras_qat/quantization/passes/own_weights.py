"""Own weights of a custom layer become weights of layers that compute the same.

`x * gamma + beta` becomes a `LearnedRescaling`, a product with a matrix a `Dense`, and a
convolution with a kernel a convolution layer. Regularizers and constraints go with the variables.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.keras_graph import GraphNode, consumers, graph_between, packed_outputs, replay
from keras_qat.quantization.passes.stand_ins import OwnWeightError
from keras_qat.quantized_layers import LearnedRescaling

layers = keras.layers


@dataclasses.dataclass(frozen=True, eq=False)
class _Weight:
    """A variable, or its first rows, in another shape, transposed or negated."""

    variable: Any
    shape: tuple[int, ...]
    transposed: bool = False
    negated: bool = False


@dataclasses.dataclass(eq=False)
class _Lazy:
    """The product of a tensor and a weight, which may still get an offset.

    Attributes:
        make: makes the tensor, with an offset or with `None`.
        joins: whether an offset may join: nothing else reads the product.
        takes: tells whether this offset may join.
        tensor: the tensor, once it is made.
    """

    make: Callable[[_Weight | None], Any]
    joins: bool
    takes: Callable[[_Weight], bool]
    tensor: Any = None


def with_layers(
    layer: Any, inputs: Any, outputs: Any, found: Mapping[int, tuple[Any, Any]]
) -> keras.Model:
    """The graph from `inputs` to `outputs` with layers instead of operations on own weights.

    Args:
        layer: the custom layer that was called.
        inputs: its symbolic inputs, in any structure.
        outputs: what its call returned.
        found: what `stand_ins` yielded during the call.

    Raises:
        OwnWeightError: a weight is used in a way that no layer states.
    """
    flat, tensors = keras.tree.flatten(inputs), [tensor for tensor, _ in found.values()]
    probe = graph_between([*flat, *tensors], outputs)
    variables = [variable for _, variable in found.values()]
    walker = _Walker(layer, probe, variables)
    weights = [_Weight(variable, tuple(variable.shape)) for variable in variables]
    values = replay(probe, [*flat, *weights], walker.call)
    if any(isinstance(value, _Weight) for value in values):
        raise OwnWeightError("an output that no input reaches")
    results = packed_outputs(probe, [walker.tensor(value) for value in values])
    walker.name_layers()
    graph = graph_between(inputs, results, layer.name)
    _COVERED[graph] = walker.covered()
    return graph


def covered_by(graph: keras.Model) -> frozenset[int]:
    """The own variables, by id, that layers of a graph from `with_layers` have taken over."""
    return _COVERED.get(graph, frozenset())


_COVERED: weakref.WeakKeyDictionary[keras.Model, frozenset[int]] = weakref.WeakKeyDictionary()
_MADE: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
"""The layers made for each custom layer, so that a second call of it calls the same ones."""


class _Walker:
    def __init__(self, layer: Any, probe: keras.Model, variables: Sequence[Any]):
        self._layer = layer
        self._readers = consumers(probe)
        self._own = {id(each) for each in variables}
        self._made: dict[Any, Any] = {}
        self._roles: dict[int, Any] = {}

    def covered(self) -> frozenset[int]:
        """The variables, by id, that have become weights of layers."""
        return frozenset(self._roles)

    def call(self, node: GraphNode, args: Any, kwargs: Any) -> Any:
        """Replaces one call in the graph."""
        args, kwargs = keras.tree.map_structure(self._as_weight, (args, kwargs))
        flat = keras.tree.flatten((args, kwargs))
        if not any(isinstance(each, _Weight) for each in flat):
            args, kwargs = keras.tree.map_structure(self.tensor, (args, kwargs))
            return node.operation(*args, **kwargs)
        kind = type(node.operation).__name__
        if isinstance(node.operation, layers.Layer):
            raise OwnWeightError(f"the layer {node.operation.name!r}, which reads it")
        if not any(isinstance(each, keras.KerasTensor | _Lazy) for each in flat):
            return _viewed(node, args)
        use = _USES.get(kind)
        result = None if use is None or kwargs else use(self, node, *args)
        if result is None:
            raise OwnWeightError(f"the operation {kind}")
        return result

    def _as_weight(self, value: Any) -> Any:
        own = isinstance(value, keras.Variable) and id(value) in self._own
        return _Weight(value, tuple(value.shape)) if own else value

    def tensor(self, value: Any) -> Any:
        """The symbolic tensor of a value."""
        if not isinstance(value, _Lazy):
            return value
        if value.tensor is None:
            value.tensor = value.make(None)
        return value.tensor

    def lazy(
        self, node: GraphNode, make: Callable[..., Any], takes: Callable[[_Weight], bool]
    ) -> _Lazy:
        readers = self._readers.get(id(node.outputs[0]), [])
        alone = len(readers) == 1 and readers[0] is not None
        return _Lazy(make, alone, takes)

    def made(self, kind: Any, weights: dict[str, _Weight], options: dict[str, Any]) -> Any:
        """A layer with the values of these weights; the same one for each call of the layer."""
        ids = tuple((role, id(each.variable)) for role, each in weights.items())
        key = (kind.__name__, ids, repr(sorted(options.items(), key=lambda item: item[0])))
        for weight in weights.values():
            if self._roles.setdefault(id(weight.variable), key) != key:
                raise OwnWeightError(f"{weight.variable.name!r} in two operations")
        kept = _MADE.setdefault(self._layer, {})
        if key not in kept:
            trainable = any(each.variable.trainable for each in weights.values())
            extras: dict[str, Any] = {}
            for role, each in weights.items():
                extras[f"{role}_regularizer"] = each.variable.regularizer
                extras[f"{role}_constraint"] = each.variable.constraint
            kept[key] = kind(
                **options, **extras, trainable=trainable, dtype=self._layer.dtype_policy
            )
        self._made[key] = (kept[key], weights)
        return kept[key]

    def apply(self, layer: Any, weights: dict[str, _Weight], x: Any) -> Any:
        result = layer(x)
        layer.set_weights([_values(each) for each in weights.values()])
        return result

    def name_layers(self) -> None:
        """The only layer has the name of the custom layer; others have the names of weights too."""
        for layer, weights in self._made.values():
            first = next(iter(weights.values())).variable.name
            alone = len(self._made) == 1
            layer.name = self._layer.name if alone else f"{self._layer.name}_{first}"


def _values(weight: _Weight) -> Any:
    values = ops.convert_to_numpy(weight.variable)
    values = -values if weight.negated else values
    return values.T if weight.transposed else values


def _viewed(node: GraphNode, args: Any) -> _Weight:
    """The weight behind an operation that changes its shape."""
    weight: _Weight = args[0]
    kind, shape = type(node.operation).__name__, tuple(node.outputs[0].shape)
    same = math.prod(shape) == math.prod(weight.shape) and not weight.transposed
    if kind in ("Reshape", "ExpandDims", "Squeeze") and same:
        return dataclasses.replace(weight, shape=shape)
    if kind in ("Cast", "ConvertToTensor") and node.outputs[0].dtype == weight.variable.dtype:
        return weight
    axes = getattr(node.operation, "axes", None)
    if kind == "Transpose" and len(shape) == 2 and axes in (None, (1, 0), [1, 0]):
        plain = weight.shape == tuple(weight.variable.shape)
        if weight.variable.constraint is None and plain:  # a constraint has an axis
            return dataclasses.replace(weight, shape=shape, transposed=not weight.transposed)
    whole = weight.shape == tuple(weight.variable.shape) and not weight.transposed
    if kind == "Slice" and whole and shape[1:] == weight.shape[1:] and not np.any(args[1]):
        return dataclasses.replace(weight, shape=shape)
    if kind == "Take" and whole and node.operation.axis == 0:
        places = ops.convert_to_numpy(args[1]).ravel()
        if np.array_equal(places, np.arange(len(places))):
            return dataclasses.replace(weight, shape=shape)
    raise OwnWeightError(f"the operation {kind} on {weight.variable.name!r}")


def _broadcast(
    weight: _Weight, shape: tuple[int | None, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shape that a weight is broadcast to, and its own: channels, or all axes of an example."""
    own, rank = weight.shape, len(shape) - 1
    if weight.transposed or not rank or len(own) > rank + 1 or (own[:-rank] not in ((), (1,))):
        return None
    own = (1,) * (rank - len(own)) + own[-rank:] if own else (1,) * rank
    if any(size not in (1, full) for size, full in zip(own, shape[1:], strict=True)):
        return None
    if all(size == 1 for size in own[:-1]):
        return None if shape[-1] is None else ((shape[-1],), own[-1:])
    known = tuple(size for size in shape[1:] if size is not None)
    return (known, own) if len(known) == rank else None


def _of_channels(weight: _Weight, shape: tuple[int | None, ...]) -> bool:
    return _broadcast(weight, shape) == ((shape[-1],), (shape[-1],))


def _two(args: Any) -> tuple[Any, _Weight] | None:
    """A tensor and a weight, in any order."""
    if len(args) != 2:
        return None
    x, weight = args if isinstance(args[1], _Weight) else args[::-1]
    return (x, weight) if isinstance(weight, _Weight) and not isinstance(x, _Weight) else None


def _rescaled(walker: _Walker, x: Any, weights: dict[str, _Weight]) -> Any:
    features: tuple[int, ...] = ()
    options: dict[str, Any] = {}
    for role, weight in weights.items():
        found = _broadcast(weight, tuple(x.shape))
        if found is None:
            raise OwnWeightError(f"{weight.variable.name!r} of shape {weight.shape} with {x.shape}")
        features, options[f"{role}_view"] = found
        options[f"{role}_shape"] = tuple(weight.variable.shape)
    layer = walker.made(LearnedRescaling, weights, {"features": features, **options})
    if len(features) == 1:
        return walker.apply(layer, weights, x)
    flat = layers.Reshape((math.prod(features),))(x)
    return layers.Reshape(features)(walker.apply(layer, weights, flat))


def _multiply(walker: _Walker, node: GraphNode, *args: Any) -> Any:
    if (found := _two(args)) is None:
        return None
    x, scale = walker.tensor(found[0]), found[1]
    if (shapes := _broadcast(scale, tuple(x.shape))) is None:
        return None

    def make(offset: _Weight | None) -> Any:
        weights = {"scale": scale} if offset is None else {"scale": scale, "offset": offset}
        return _rescaled(walker, x, weights)

    def takes(offset: _Weight) -> bool:
        other = _broadcast(offset, tuple(x.shape))
        same = offset.variable.trainable is scale.variable.trainable
        return same and other is not None and other[0] == shapes[0]

    return walker.lazy(node, make, takes)


def _add(walker: _Walker, node: GraphNode, *args: Any) -> Any:
    if (found := _two(args)) is None:
        return None
    x, offset = found
    if isinstance(x, _Lazy) and x.joins and x.tensor is None and x.takes(offset):
        return x.make(offset)
    return _rescaled(walker, walker.tensor(x), {"offset": offset})


def _subtract(walker: _Walker, node: GraphNode, *args: Any) -> Any:
    """`x - w` is the sum of `x` and a weight that starts with `-w`."""
    if len(args) != 2 or not isinstance(args[1], _Weight):
        return None
    variable = args[1].variable
    symmetric = type(variable.regularizer) in (type(None), keras.regularizers.L2)
    if not symmetric or variable.constraint is not None:
        return None
    return _add(walker, node, args[0], dataclasses.replace(args[1], negated=True))


def _weighted(
    walker: _Walker, node: GraphNode, x: Any, kernel: _Weight, role: str, kind: Any, options: Any
) -> _Lazy:
    """The product with a kernel, by a layer that may have a bias."""
    tensor = walker.tensor(x)

    def make(bias: _Weight | None) -> Any:
        weights = {role: kernel} if bias is None else {role: kernel, "bias": bias}
        layer = walker.made(kind, weights, {**options, "use_bias": bias is not None})
        return walker.apply(layer, weights, tensor)

    def takes(bias: _Weight) -> bool:
        same = bias.variable.trainable is kernel.variable.trainable
        return same and _of_channels(bias, tuple(node.outputs[0].shape))

    return walker.lazy(node, make, takes)


def _matmul(walker: _Walker, node: GraphNode, x: Any, kernel: Any, *more: Any) -> Any:
    axes = getattr(node.operation, "axes", 1)
    if not isinstance(kernel, _Weight) or len(kernel.shape) != 2 or axes != 1:
        return None
    return _weighted(walker, node, x, kernel, "kernel", layers.Dense, {"units": kernel.shape[1]})


def _einsum(walker: _Walker, node: GraphNode, x: Any, kernel: Any, *more: Any) -> Any:
    """A product of the last axis with a matrix; other equations have no layer here."""
    source, _, output = node.operation.subscripts.replace(" ", "").partition("->")
    left, _, right = source.partition(",")
    if more or not isinstance(kernel, _Weight) or len(set(right)) != 2 or right[0] == right[1]:
        return None
    row, column = right if left.endswith(right[0]) else right[::-1]
    if not left.endswith(row) or column in left or output != left[:-1] + column:
        return None
    if row != right[0]:
        if kernel.variable.constraint is not None or kernel.shape != tuple(kernel.variable.shape):
            return None
        kernel = dataclasses.replace(kernel, shape=kernel.shape[::-1], transposed=True)
    return _matmul(walker, node, x, kernel)


def _conv(walker: _Walker, node: GraphNode, x: Any, kernel: Any) -> Any:
    kind = {3: layers.Conv1D, 4: layers.Conv2D}.get(len(node.inputs[0].shape))
    inputs = node.inputs[0].shape[-1]
    if kind is None or not _is_plain_kernel(node, kernel) or inputs % kernel.shape[-2]:
        return None
    options = {"filters": kernel.shape[-1], "groups": inputs // kernel.shape[-2]}
    return _slid(walker, node, x, kernel, "kernel", kind, options, kernel.shape[:-2])


def _depthwise(walker: _Walker, node: GraphNode, x: Any, kernel: Any) -> Any:
    kind = {3: layers.DepthwiseConv1D, 4: layers.DepthwiseConv2D}.get(len(node.inputs[0].shape))
    if kind is None or not _is_plain_kernel(node, kernel):
        return None
    options = {"depth_multiplier": kernel.shape[-1]}
    return _slid(walker, node, x, kernel, "depthwise", kind, options, kernel.shape[:-2])


def _is_plain_kernel(node: GraphNode, kernel: Any) -> bool:
    last = node.operation.data_format in (None, "channels_last")
    last = last and keras.config.image_data_format() == "channels_last"
    plain = isinstance(kernel, _Weight) and kernel.shape == tuple(kernel.variable.shape)
    return last and plain and not kernel.transposed


def _slid(
    walker: _Walker,
    node: GraphNode,
    x: Any,
    kernel: _Weight,
    role: str,
    kind: Any,
    options: dict[str, Any],
    size: tuple[int, ...],
) -> Any:
    operation = node.operation
    options = {
        **options,
        "kernel_size": size,
        "strides": operation.strides,
        "padding": operation.padding,
        "dilation_rate": operation.dilation_rate,
    }
    return _weighted(walker, node, x, kernel, role, kind, options)


_USES: dict[str, Callable[..., Any]] = {
    "Add": _add,
    "Conv": _conv,
    "DepthwiseConv": _depthwise,
    "Dot": _matmul,
    "Einsum": _einsum,
    "Matmul": _matmul,
    "Multiply": _multiply,
    "Subtract": _subtract,
    "Tensordot": _matmul,
}
"""The class name of an operation in Keras -> the function that finds its layer."""
