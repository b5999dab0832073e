"""What the networks of TFMOT learn, and what a file answers."""

import pathlib

import numpy as np
from ai_edge_litert.interpreter import Interpreter

CLASSES = 4
FILES = pathlib.Path(__file__).parent / "files"
SHAPES = {"residual": (8, 8, 3), "separable": (8, 8, 3), "dense": (6,)}


def examples(shape):
    """Noise around one point for each class, and the classes."""
    rng, count = np.random.default_rng(0), 1000
    y = rng.integers(0, CLASSES, count)
    centers = rng.normal(size=(CLASSES, *shape))
    return (centers[y] + rng.normal(size=(count, *shape))).astype(np.float32), y


def interpreter_of(path):
    return Interpreter(str(path), num_threads=1)


def answers(path, x):
    """The codes that an int8 file answers."""
    interpreter = interpreter_of(path)
    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    scale, zero_point = given["quantization"]
    codes = np.rint(x / np.float32(scale)) + zero_point
    interpreter.set_tensor(given["index"], np.clip(codes, -128, 127).astype(np.int8))
    interpreter.invoke()
    return interpreter.get_tensor(returned["index"])


def accuracy(outputs, labels):
    return 100.0 * np.mean(np.argmax(outputs, axis=-1) == labels)
