"""GDNSQ: quantizers whose steps, and with them the numbers of levels, are learned."""

from keras_qat.quantizers.gdnsq.activations import GDNSQActivationQuantizer
from keras_qat.quantizers.gdnsq.weights import GDNSQWeightQuantizer

__all__ = ["GDNSQActivationQuantizer", "GDNSQWeightQuantizer"]
