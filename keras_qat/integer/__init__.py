"""The learned integer model in NumPy alone: the contract between training and export.

Importable without Keras and TensorFlow.
"""

from keras_qat.integer import ops
from keras_qat.integer.fixed_point import PROFILES, RoundingProfile
from keras_qat.integer.graph import GraphBuilder, IntegerGraph, IntegerTensor
from keras_qat.integer.headroom import add_headroom
from keras_qat.integer.interpreter import run
from keras_qat.integer.invalid_file import InvalidFileError
from keras_qat.integer.io import GraphFileError, load_graph, save_graph
from keras_qat.integer.qparams import QuantParams

__all__ = [
    "PROFILES",
    "GraphBuilder",
    "GraphFileError",
    "IntegerGraph",
    "IntegerTensor",
    "InvalidFileError",
    "QuantParams",
    "RoundingProfile",
    "add_headroom",
    "load_graph",
    "ops",
    "run",
    "save_graph",
]
