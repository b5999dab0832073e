"""`from_tfmot`: goes on from a model that TFMOT quantized, pruned or clustered."""

from __future__ import annotations

import os
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.config import QuantizationConfig
from keras_qat.keras_graph import input_name
from keras_qat.model import QuantizedModel
from keras_qat.quantization.pipeline import plan, quantize
from keras_qat.quantized_layers import quantized_kernels
from keras_qat.tfmot.grids import ScaledGrid, StoredGridsConfig, planned_grids, weight_scale
from keras_qat.tfmot.network import ReadNetwork, read_network
from keras_qat.tfmot.stored_model import stored_model

_EXAMPLES = 8
_UNKNOWN_SIZE = 32


def from_tfmot(
    model: Any | str | os.PathLike[str],
    config: QuantizationConfig | str | dict[str, Any] | None = None,
    *,
    calibration_data: Any = None,
    target: str | None = None,
    preserve_sparsity: bool = False,
    preserve_clusters: bool = False,
) -> QuantizedModel:
    """A `QuantizedModel` of a model that tensorflow-model-optimization (TFMOT) made.

    The layers keep the names and weights that they have in TFMOT's model. A model of TFMOT's
    quantization-aware training keeps its grids: all scales and zero points are TFMOT's, in 8 bits,
    and train on by LSQ. Differences are named in a warning: a layer that moves or averages values
    may keep the grid of its input here, while TFMOT has a range of its own behind it.

    A model after `strip_pruning` or `strip_clustering` has no grids. It is quantized as
    `keras_qat.quantize` does it. So is any model if a config is given, as for fewer bits.

    TFMOT need not be installed: a file of the model is enough.

    Args:
        model: the path of an `.h5` file that `model.save("model.h5")` wrote, or a model of
            tf_keras.
        config: see `keras_qat.quantize`; `None` keeps TFMOT's grids.
        calibration_data: see `keras_qat.quantize`. Needed only for grids that TFMOT does not have.
        target, preserve_sparsity, preserve_clusters: see `keras_qat.quantize`.

    Returns:
        A `QuantizedModel`, not compiled.

    Raises:
        UnsupportedLayerError: layers that no Keras 3 layer equals, that are quantized otherwise
            than by TFMOT's 8-bit scheme, or that have no rule here. The message lists all of them.
        ValueError: no file of a whole model; or grids without a range, and no calibration data.

    Example:

    >>> try:
    ...     from_tfmot("model.keras")
    ... except ValueError as error:
    ...     print(str(error).partition(".")[0])
    model
    """
    network = read_network(stored_model(model))
    options: dict[str, Any] = {
        "target": target,
        "preserve_sparsity": preserve_sparsity,
        "preserve_clusters": preserve_clusters,
    }
    if config is not None or not network.quantized:
        if calibration_data is None:
            reason = "a config is given" if network.quantized else "TFMOT did not quantize it"
            raise ValueError(
                f"The grids of {network.model.name!r} start from data, because {reason}. Received: "
                "calibration_data=None. Give a few hundred inputs."
            )
        return quantize(network.model, config, calibration_data=calibration_data, **options)
    return _with_grids(network, calibration_data, options)


def _with_grids(network: ReadNetwork, data: Any, options: dict[str, Any]) -> QuantizedModel:
    """The model on TFMOT's grids; other grids start from the data."""
    found, missing, left = planned_grids(plan(network.model, StoredGridsConfig()), network.ranges)
    if missing and data is None:
        raise ValueError(
            f"TFMOT has no ranges for {', '.join(map(repr, missing))} of {network.model.name!r}. "
            "Received: calibration_data=None. Give a few hundred inputs, from which these start."
        )
    config = StoredGridsConfig(grids=found)
    if data is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of ranges that the data only stand for
            qmodel = quantize(
                network.model, config, calibration_data=_stand_ins(network), **options
            )
        _copy_statistics(network.model, qmodel)
    else:
        qmodel = quantize(network.model, config, calibration_data=data, **options)
    _set_scales(qmodel, network, found)
    if left:
        warnings.warn(
            f"TFMOT has ranges of its own behind {', '.join(map(repr, left))}. Here the values "
            "stay on the grids that they come from.",
            stacklevel=3,
        )
    return qmodel


def _set_scales(qmodel: QuantizedModel, network: ReadNetwork, grids: dict[str, ScaledGrid]) -> None:
    for quantizer in qmodel.quantizers:
        given = grids.get(quantizer.name.removesuffix("_quantizer"))
        if given is not None and quantizer.grid == given.grid:
            quantizer.set_scale(given.scale)
    for layer in qmodel.layers:
        for kernel in quantized_kernels(layer):
            latent = ops.convert_to_numpy(kernel.channels_last_kernel())
            ends = network.kernel_ranges.get(kernel.name)
            if ends is None:
                axes = tuple(range(latent.ndim - 1))
                ends = latent.min(axis=axes), latent.max(axis=axes)
            kernel.weight_quantizer.set_scale(weight_scale(*ends, latent.shape[-1]))


def _stand_ins(network: ReadNetwork) -> list[np.ndarray]:
    """Inputs that are evenly spread over the ranges that TFMOT noted."""
    rng = np.random.default_rng(0)
    found = []
    for tensor in network.model.inputs:
        low, high = network.ranges.get(input_name(tensor), (-1.0, 1.0))
        shape = (_EXAMPLES, *(size or _UNKNOWN_SIZE for size in tensor.shape[1:]))
        found.append(rng.uniform(low, high, shape).astype(np.float32))
    return found


def _copy_statistics(given: keras.Model, qmodel: QuantizedModel) -> None:
    """The running statistics of TFMOT's model, which inputs that stand in may have replaced."""
    for layer in given.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            qmodel.get_layer(layer.name).set_weights(layer.get_weights())
