"""Models that TFMOT trains for a few steps, with its own converted files. Runs with Keras 2.

    TF_USE_LEGACY_KERAS=1 python -m tests.tfmot.trained_by_tfmot FOLDER

Each network leaves `NAME.h5` and `NAME.tflite`. The folder `files` holds what one run left.
"""

import pathlib
import sys

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from tests.tfmot.examples import CLASSES, examples

layers = tf_keras.layers


def residual():
    """As ResNet-8: a stem, a block with a shortcut, average pooling, a softmax."""
    inputs = tf_keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    shortcut = x = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(8, 3, padding="same", name="conv")(x)
    x = layers.BatchNormalization(name="conv_bn")(x)
    x = layers.Add(name="add")([shortcut, x])
    x = layers.ReLU(name="add_relu")(x)
    x = layers.AveragePooling2D(4, name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="head")(x)
    return tf_keras.Model(inputs, outputs, name="residual")


def separable():
    """A depthwise convolution and a separable one, with activations of their own."""
    inputs = tf_keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, activation="relu", name="stem")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_bn")(x)
    x = layers.ReLU(6.0, name="depthwise_relu")(x)
    x = layers.SeparableConv2D(8, 3, activation="relu", name="separable")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return tf_keras.Model(inputs, layers.Dense(CLASSES, name="head")(x), name="separable")


def dense():
    """A Sequential model of features."""
    stack = [
        layers.Dense(16, activation="relu", input_shape=(6,), name="first"),
        layers.Dropout(0.1, name="dropout"),
        layers.Dense(16, activation="relu", name="hidden"),
        layers.Dense(CLASSES, activation="softmax", name="head"),
    ]
    return tf_keras.Sequential(stack, name="dense")


NETWORKS = {"residual": residual, "separable": separable, "dense": dense}


def fit(model, x, y, epochs=2, callbacks=()):
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=model.name == "separable")
    model.compile(tf_keras.optimizers.Adam(5e-3), loss)
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0, callbacks=list(callbacks))
    return model


def save(folder, name, model):
    model.save(str(folder / f"{name}.h5"), include_optimizer=False)


def converted(model):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def quantized(folder, name):
    """Trains in float, then on TFMOT's grids."""
    model = NETWORKS[name]()
    x, y = examples(model.input_shape[1:])
    qmodel = tfmot.quantization.keras.quantize_model(fit(model, x, y))
    save(folder, name, fit(qmodel, x, y))
    (folder / f"{name}.tflite").write_bytes(converted(qmodel))


def pruned(folder):
    """The Dense network with three quarters of zeros, with TFMOT's wrappers and without them."""
    model = dense()
    x, y = examples((6,))
    sparsity = tfmot.sparsity.keras.ConstantSparsity(0.75, begin_step=0, frequency=1)
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(fit(model, x, y), pruning_schedule=sparsity)
    fit(wrapped, x, y, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    save(folder, "wrapped", wrapped)
    save(folder, "pruned", tfmot.sparsity.keras.strip_pruning(wrapped))


def clustered(folder):
    """The Dense network with four values in each kernel."""
    x, y = examples((6,))
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    wrapped = tfmot.clustering.keras.cluster_weights(
        fit(dense(), x, y), number_of_clusters=4, cluster_centroids_init=start
    )
    stripped = tfmot.clustering.keras.strip_clustering(fit(wrapped, x, y))
    save(folder, "clustered", stripped)


def main(folder):
    tf_keras.utils.set_random_seed(0)
    for name in NETWORKS:
        quantized(folder, name)
    pruned(folder)
    clustered(folder)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
