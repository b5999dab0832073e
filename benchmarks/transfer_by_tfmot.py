"""TFMOT's side of `transfer.py`: its accuracy in percent, as Keras model and as file.

    TF_USE_LEGACY_KERAS=1 python benchmarks/transfer_by_tfmot.py WEIGHTS SEED

WEIGHTS is an `.npz` of the float model: `layer/number` -> array. TFMOT takes no model inside a
model and no Rescaling, so the network is flat here and its images are scaled outside.
"""

import sys

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from transfer_task import Digits, digits, features, train

layers = tf_keras.layers


def main(weights: str, seed: int) -> None:
    tf_keras.utils.set_random_seed(seed)
    inputs = tf_keras.Input((8, 8, 1), name="image")
    x = layers.Flatten(name="flatten")(features(layers, inputs))
    outputs = layers.Dense(5, activation="softmax", name="head")(x)
    model = tf_keras.Model(inputs, outputs)
    stored = np.load(weights)
    for layer in model.layers:
        layer.set_weights([stored[f"{layer.name}/{n}"] for n in range(len(layer.get_weights()))])
        layer.trainable = layer.name == "head"
    _, new, test = (Digits(data.x / 16, data.y) for data in digits())
    theirs = tfmot.quantization.keras.quantize_model(model)
    for layer in theirs.layers:
        layer.trainable = layer.name.endswith("head")
    train(tf_keras, theirs, new, test)
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
    in_keras = theirs.evaluate(*test, verbose=0)[1]
    print("accuracy", 100 * in_keras, 100 * float(np.mean(np.array(answers) == test.y)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
