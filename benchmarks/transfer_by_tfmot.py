"""TFMOT's side of `transfer.py`: its accuracies in percent, as Keras model and as file.

    TF_USE_LEGACY_KERAS=1 python benchmarks/transfer_by_tfmot.py WEIGHTS ORDER,ORDER,... [BASE ...]

WEIGHTS is an `.npz` of the float model: `layer/number` -> array. ORDER is a seed of the order of
the images. TFMOT takes no model inside a model and no Rescaling, so the network is flat here and
its images are scaled outside.

The list `trainable_weights` of TFMOT's wrapper has the kernel whatever `trainable` says. So a
frozen base trains: BASE is `free` for that. For `held` the list is emptied by hand.
"""

import json
import sys

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from transfer_task import Digits, digits, features, train

layers = tf_keras.layers


def quantized(stored, held):
    """The model of the weights by TFMOT, whose base is frozen, or is to be."""
    inputs = tf_keras.Input((8, 8, 1), name="image")
    x = layers.Flatten(name="flatten")(features(layers, inputs))
    outputs = layers.Dense(5, activation="softmax", name="head")(x)
    model = tf_keras.Model(inputs, outputs)
    for layer in model.layers:
        layer.set_weights([stored[f"{layer.name}/{n}"] for n in range(len(layer.get_weights()))])
        layer.trainable = layer.name == "head"
    theirs = tfmot.quantization.keras.quantize_model(model)
    for layer in theirs.layers:
        layer.trainable = layer.name.endswith("head")
        if held and not layer.trainable:
            layer._trainable_weights = []
    return theirs


def accuracy_of_file(theirs, test):
    converter = tf.lite.TFLiteConverter.from_keras_model(theirs)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    file = tf.lite.Interpreter(model_content=converter.convert())
    file.allocate_tensors()
    (read,), (write,) = file.get_output_details(), file.get_input_details()
    answers = []
    for image in test.x:
        file.set_tensor(write["index"], image[None])
        file.invoke()
        answers.append(np.argmax(file.get_tensor(read["index"])))
    return 100 * float(np.mean(np.array(answers) == test.y))


def kernels(theirs):
    """The kernels of the base, in the order of the layers."""
    base = [layer for layer in theirs.layers if not layer.name.endswith("head")]
    found = [weight for layer in base for weight, *_ in getattr(layer, "_weight_vars", ())]
    return [weight.numpy() for weight in found]


def main(weights, orders, bases):
    stored = np.load(weights)
    _, new, test = (Digits(data.x / 16, data.y) for data in digits())
    for order in orders:
        for base in bases:
            theirs = quantized(stored, held=base == "held")
            before = kernels(theirs)
            tf_keras.utils.set_random_seed(order)
            train(tf_keras, theirs, new, test)
            same = map(np.array_equal, before, kernels(theirs))
            said = {
                "order": order,
                "held": base == "held",
                "accuracy": 100 * theirs.evaluate(*test, verbose=0)[1],
                "of_file": accuracy_of_file(theirs, test),
                "kernels": len(before),
                "moved": sum(not each for each in same),
            }
            print("found", json.dumps(said), flush=True)


if __name__ == "__main__":
    _, path, named, *bases = sys.argv
    main(path, [int(each) for each in named.split(",")], bases or ["free", "held"])
