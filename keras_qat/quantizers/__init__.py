"""Quantizers: an integer grid, its scale, and a gradient."""

from keras_qat.errors import LoweringError
from keras_qat.quantizers.activation_quantizer import NO_SOURCE, ActivationQuantizer
from keras_qat.quantizers.dequantize import Dequantize
from keras_qat.quantizers.dorefa import DoReFaQuantizer
from keras_qat.quantizers.gdnsq import GDNSQActivationQuantizer, GDNSQWeightQuantizer
from keras_qat.quantizers.grid import Grid
from keras_qat.quantizers.lsq import LSQActivationQuantizer, LSQWeightQuantizer
from keras_qat.quantizers.old_names import LSQQuantizer, STEQuantizer
from keras_qat.quantizers.pact import PACTQuantizer
from keras_qat.quantizers.quantizer import Quantizer
from keras_qat.quantizers.slopes import SlopeQuantizer
from keras_qat.quantizers.softmax_rounding import PutsOnGrid, SoftmaxRounding
from keras_qat.quantizers.ste import STEActivationQuantizer, STEWeightQuantizer
from keras_qat.quantizers.waveq import WaveQWeightQuantizer
from keras_qat.quantizers.weight_quantizer import WeightQuantizer

__all__ = [
    "NO_SOURCE",
    "ActivationQuantizer",
    "Dequantize",
    "DoReFaQuantizer",
    "GDNSQActivationQuantizer",
    "GDNSQWeightQuantizer",
    "Grid",
    "LSQActivationQuantizer",
    "LSQQuantizer",
    "LSQWeightQuantizer",
    "LoweringError",
    "PACTQuantizer",
    "PutsOnGrid",
    "Quantizer",
    "STEActivationQuantizer",
    "STEQuantizer",
    "STEWeightQuantizer",
    "SlopeQuantizer",
    "SoftmaxRounding",
    "WaveQWeightQuantizer",
    "WeightQuantizer",
]
