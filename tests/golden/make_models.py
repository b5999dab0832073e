"""Makes the files that must load and compute the same for ever. Files that are there are kept.

    python -m tests.golden.make_models

Each model is a folder: `model.keras`, `graph.npz` (its integers), `litert.tflite`, `tflm.tflite`,
and `values.npz`: inputs, its codes by layer, its float outputs, the outputs of both files, and its
weights after one more step of training. `made_with.json` has the versions. A file is never made
anew: a later format gets a folder of its own.
"""

import json
import pathlib
import platform

import keras
import numpy as np
import tensorflow as tf

import keras_qat
import tflite_export
from keras_qat.callbacks import GDNSQSchedule, PEGESchedule
from keras_qat.integer import save_graph
from tests.models import images, points, randomize

layers = keras.layers

FOLDER = pathlib.Path(__file__).parent / "models"
X = images(32, (6, 6, 2))
Y = points(32)[1]


def network(in_float=False):
    inputs = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    shortcut = x = layers.ReLU(name="relu")(x)
    x = layers.SeparableConv2D(4, 3, padding="same", activation="relu6", name="separable")(x)
    x = layers.Add(name="add")([shortcut, x])
    if in_float:
        x = layers.LayerNormalization(name="float_part")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dense(6, activation="tanh", name="hidden")(x)
    return randomize(keras.Model(inputs, layers.Dense(3, name="head")(x), name="golden"))


def compiled(qmodel):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(keras.optimizers.SGD(1e-2), loss, jit_compile=False)
    return qmodel


def trained(config, callbacks, epochs, in_float=False):
    keras.utils.set_random_seed(0)
    qmodel = compiled(keras_qat.quantize(network(in_float), config, calibration_data=X))
    qmodel.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return qmodel


GDNSQ = keras_qat.GDNSQConfig(weight_bits=3, activation_bits=4, start_bits=8)


def models():
    """Name -> a function that makes the model."""
    low = {"weight_bits": 2, "activation_bits": 4}
    return {
        "lsq": lambda: trained(keras_qat.LSQConfig(**low), [], 2),
        "ste": lambda: trained(keras_qat.STEConfig(**low), [], 2),
        "gdnsq_held": lambda: trained(GDNSQ, [GDNSQSchedule(verbose=0)], 60),
        "gdnsq_learning": lambda: trained(GDNSQ, [GDNSQSchedule(lossless=True, verbose=0)], 60),
        "pege": lambda: trained(keras_qat.PEGEConfig(**low), [PEGESchedule()], 4),
        "float_part": lambda: trained(keras_qat.LSQConfig(**low), [], 2, in_float=True),
        # Format 2: quantizers of weights and of activations have types of their own.
        "lsq_format_2": lambda: trained(keras_qat.LSQConfig(**low), [], 2),
        "gdnsq_held_format_2": lambda: trained(GDNSQ, [GDNSQSchedule(verbose=0)], 60),
        # Format 3: a channel may keep fewer levels, replacement has an order.
        "gdnsq_kept_format_3": lambda: trained(
            GDNSQ, [GDNSQSchedule(verbose=0, refit=False, fewer_levels="keep")], 60
        ),
        "weights_alone_format_3": lambda: trained(
            keras_qat.LSQConfig(weight_bits=2, activation_bits=None), [], 2
        ),
        "pege_forward_format_3": lambda: trained(
            keras_qat.PEGEConfig(**low, order="forward"), [PEGESchedule()], 4
        ),
    }


IN_FLOAT = ("float_part", "weights_alone_format_3")
"""The models that are not for microcontrollers. Their files compute in float, too."""

LATER = {"held_fewer", "exponent"}
"""Variables that are younger than the files. They keep the values that they start with."""


def step(qmodel):
    """The weights after one more step; the model changes."""
    qmodel.train_on_batch(X[:8], Y[:8])
    return [np.array(weight) for weight in qmodel.weights if weight.name not in LATER]


def versions():
    """What float results depend on."""
    about = pathlib.Path("/proc/cpuinfo")
    text = about.read_text() if about.exists() else f"model name: {platform.processor()}"
    processor = next(line for line in text.splitlines() if line.startswith("model name"))
    return {
        **{package.__name__: package.__version__ for package in (keras, np, tf)},
        "processor": processor.partition(":")[2].strip(),
        # Virtual machines give processors of several generations one name.
        "vectors": next((width for width in ("avx512f", "avx2") if width in text.split()), "other"),
    }


def make(name, build):
    folder = FOLDER / name
    folder.mkdir(parents=True)
    qmodel = build()
    qmodel.save(folder / "model.keras")
    values = {f"codes/{key}": codes for key, codes in qmodel.layer_codes(X).items()}
    values["inputs"], values["outputs"] = X, qmodel.predict(X, verbose=0)
    if name != "gdnsq_learning":  # which does not deploy yet
        save_graph(qmodel.to_integer(), folder / "graph.npz")
        for target in ("litert", "tflm"):
            if target == "tflm" and name in IN_FLOAT:
                continue
            path = folder / f"{target}.tflite"
            limits = {"max_flip_rate": 1.0, "min_argmax_agreement": 0.0}
            tflite_export.export(qmodel, path, target=target, samples=X, verbose=False, **limits)
            values[target] = tflite_export.predict(path, X, runtime=target)
    for index, weight in enumerate(step(compiled(qmodel))):
        values[f"stepped/{index:03d}"] = weight
    np.savez_compressed(folder / "values.npz", **values)
    (folder / "made_with.json").write_text(json.dumps(versions(), indent=1) + "\n")


if __name__ == "__main__":
    for name, build in models().items():
        if not (FOLDER / name).exists():
            print(name, flush=True)
            make(name, build)
