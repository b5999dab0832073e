"""What training keeps of a pruned or a clustered kernel: its zeros, and which weights are equal.

**Zeros.** `w = m * latent`, with `m` 0 where the weight was zero at the start, and 1 elsewhere. So
`dlatent = m * dw`.

**Clusters.** Weights that share a scale and were equal at the start are one cluster. All of them
are the first one of their cluster: `w[i] = latent[first[i]]`. Backward, each gets the mean over its
cluster: `dlatent[i] = mean dw[j] over all j with first[j] = first[i]`. Equal weights with equal
gradients stay equal under any optimizer that treats weights one by one. A quantizer gives equal
weights equal codes, so a channel has no more codes than it had values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from keras_qat.quantizers.custom_gradient import custom_gradient
from keras_qat.tensors import Tensor

PRESERVED = ("preserve_sparsity", "preserve_clusters")
"""The options that keep what pruning and clustering did to the weights."""


def own_places(shape: tuple[int, ...], dtype: Any = "int32") -> Tensor:
    """The places of clusters of one weight each: every weight is its own first.

    >>> ops.convert_to_numpy(own_places((2, 2))).tolist()
    [[0, 1], [2, 3]]
    """
    return ops.reshape(ops.arange(int(np.prod(shape)), dtype=dtype), shape)


def first_of_equals(kernel: npt.NDArray[Any], per_channel: bool) -> npt.NDArray[np.int32]:
    """For each weight, the place of the first weight that is equal to it, in the flat kernel.

    Args:
        kernel: the weights, output channels last.
        per_channel: whether only weights of one channel can be equal.

    >>> first_of_equals(np.array([[0.5, 0.5], [0.5, 1.0]]), per_channel=True).tolist()
    [[0, 1], [0, 3]]
    """
    places = np.arange(kernel.size, dtype=np.int32).reshape(kernel.shape)
    columns = (-1, kernel.shape[-1] if per_channel else 1)
    first = np.empty_like(places.reshape(columns))
    pairs = zip(kernel.reshape(columns).T, places.reshape(columns).T, strict=True)
    for channel, (values, own) in enumerate(pairs):
        _, starts, which = np.unique(values, return_index=True, return_inverse=True)
        first[:, channel] = own[starts][which.reshape(-1)]
    return first.reshape(kernel.shape)


def tied(kernel: Tensor, first: Tensor) -> Tensor:
    """The kernel with every weight replaced by the first one of its cluster.

    The gradient is the mean over the cluster.

    >>> kernel, first = ops.array([0.5, 0.25, 0.75]), ops.array([0, 1, 0])
    >>> [float(w) for w in tied(kernel, first)]
    [0.5, 0.25, 0.5]
    """

    @custom_gradient
    def gather(kernel: Tensor) -> Any:
        places = ops.reshape(first, (-1,))

        def members_of(values: Tensor) -> Tensor:
            """The sum of each weight's cluster."""
            size = int(np.prod(kernel.shape))
            sums = ops.segment_sum(ops.reshape(values, (-1,)), places, num_segments=size)
            return ops.reshape(ops.take(sums, places), kernel.shape)

        def gradient(upstream: Tensor) -> tuple[Tensor]:
            return (members_of(upstream) / members_of(ops.ones_like(upstream)),)

        return ops.reshape(ops.take(ops.reshape(kernel, (-1,)), places), kernel.shape), gradient

    return gather(kernel)
