"""Each rewrite of the normal form alone, as a function from a model to a new one."""

from keras_qat.quantization.passes.decompose_separable import DECOMPOSE
from keras_qat.quantization.passes.layer_copies import nothing_stays_float
from keras_qat.quantization.passes.normalize import normalize
from keras_qat.quantization.passes.rewriting import Rewriting
from keras_qat.quantization.passes.split_activations import SPLIT


def _rewritten(model, rewrite):
    rewriting = Rewriting(model, [rewrite], nothing_stays_float)
    return rewriting.rebuilt() if rewriting.applies() else model


def split_activations(model):
    return _rewritten(model, SPLIT)


def decompose_separable(model):
    return _rewritten(model, DECOMPOSE)


def pair_merges(model):
    """Of a model with linear weight layers: what is added besides pairs would show."""
    return normalize(model, nothing_stays_float)
