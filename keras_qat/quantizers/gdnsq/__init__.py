"""GDNSQ: quantizers that learn their steps, and with them their numbers of levels."""

from keras_qat.quantizers.gdnsq.activations import GDNSQActivationQuantizer
from keras_qat.quantizers.gdnsq.weights import GDNSQWeightQuantizer

__all__ = ["GDNSQActivationQuantizer", "GDNSQWeightQuantizer"]
