"""Quantizers: an integer grid, its scale, and a gradient."""

from keras_qat.quantizers.dequantize import Dequantize
from keras_qat.quantizers.dorefa import DoReFaQuantizer
from keras_qat.quantizers.gdnsq.activations import GDNSQActivationQuantizer
from keras_qat.quantizers.gdnsq.weights import GDNSQWeightQuantizer
from keras_qat.quantizers.grid import Grid
from keras_qat.quantizers.lowering_error import LoweringError
from keras_qat.quantizers.lsq import LSQQuantizer, lsq_initial_scale
from keras_qat.quantizers.pact import PACTQuantizer
from keras_qat.quantizers.quantizer import NO_SOURCE, Quantizer
from keras_qat.quantizers.softmax_rounding import SoftmaxRounding
from keras_qat.quantizers.ste import STEQuantizer

__all__ = [
    "NO_SOURCE",
    "Dequantize",
    "DoReFaQuantizer",
    "GDNSQActivationQuantizer",
    "GDNSQWeightQuantizer",
    "Grid",
    "LSQQuantizer",
    "LoweringError",
    "PACTQuantizer",
    "Quantizer",
    "STEQuantizer",
    "SoftmaxRounding",
    "lsq_initial_scale",
]
