"""Outputs whose logarithm a loss takes: training reads them before they are rounded.

Binary cross-entropy and a Poisson loss take logarithms. The logarithm of a value that is rounded to
0 has no gradient, or far too large a one.
"""

from __future__ import annotations

import keras

from keras_qat.copying import builtin_name
from keras_qat.keras_graph import GraphNode, consumers, nodes
from keras_qat.quantizers import GDNSQActivationQuantizer, Quantizer
from keras_qat.quantizers.grid import Grid
from keras_qat.quantizers.learned_scale import LearnedScale

_READS = {"sigmoid": "value", "softplus": "clipped", "exponential": "clipped"}
"""What a loss reads in training behind an activation at the end: `ActivationQuantizer` explains."""


def loss_reads(node: GraphNode, model: keras.Model) -> str | None:
    """What a loss reads of a call in training; `None` unless the call alone makes an output."""
    (output,) = node.outputs
    if not any(output is each for each in model.outputs):
        return None
    if consumers(model)[id(output)] != [None]:
        return None
    return _READS.get(builtin_name(getattr(node.operation, "activation", None)) or "")


def quantizers_before(model: keras.Model) -> set[Quantizer]:
    """The quantizers in front of the activations that a loss reads unrounded.

    An example beyond the range has no gradient, and a surely wrong one lies at its ends.
    """
    made_by = {id(tensor): node for node in nodes(model) for tensor in node.outputs}
    activations = [made_by[id(node.inputs[0])] for node in nodes(model) if _is_read(node)]
    before = [made_by[id(tensor)].operation for node in activations for tensor in node.inputs]
    return {each for each in before if isinstance(each, Quantizer)}


def fix_probabilities(model: keras.Model) -> None:
    """Fixes the range of a sigmoid that the loss reads as it is at 0 to 1: no loss trains it."""
    for node in nodes(model):
        if node.option("loss_reads", None) != "value":
            continue
        quantizer = node.operation
        quantizer.set_scale(1.0 / Grid.for_activations(quantizer.bits, signed=False).qmax)
        if isinstance(quantizer, GDNSQActivationQuantizer):
            quantizer.hold()
        if isinstance(quantizer, GDNSQActivationQuantizer | LearnedScale):
            quantizer.trainable = False


def _is_read(node: GraphNode) -> bool:
    return node.option("loss_reads", None) is not None
