"""What the tests of reliability train: two dense layers, on every kind of quantizer."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np

import keras_qat
from keras_qat.callbacks import GDNSQSchedule, PEGESchedule
from tests.models import points, randomize

layers = keras.layers

X, Y = points(64)
CONFIGS = {
    "ste": keras_qat.STEConfig(weight_bits=3, activation_bits=3),
    "lsq": keras_qat.LSQConfig(weight_bits=3, activation_bits=3),
    "gdnsq": keras_qat.GDNSQConfig(weight_bits=7, activation_bits=7, start_bits=8),
    "pege": keras_qat.PEGEConfig(weight_bits=3, activation_bits=3),
}
ROOT = pathlib.Path(__file__).parents[2]


def network():
    inputs = keras.Input((6,), name="numbers")
    x = layers.Dense(4, activation="relu", name="first")(inputs)
    return randomize(keras.Model(inputs, layers.Dense(3, name="last")(x), name="tiny"))


def compiled(qmodel, optimizer=None, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(optimizer or keras.optimizers.Adam(1e-3), loss, jit_compile=False, **options)
    return qmodel


def new_model(kind="lsq", optimizer=None, float_model=None, **options):
    keras.utils.set_random_seed(0)
    config = CONFIGS.get(kind, kind)
    qmodel = keras_qat.quantize(float_model or network(), config, calibration_data=X)
    return compiled(qmodel, optimizer, **options)


def schedules(kind):
    return {"gdnsq": [GDNSQSchedule(verbose=0)], "pege": [PEGESchedule()]}.get(kind, [])


def fit(qmodel, kind="lsq", *callbacks, epochs=2, **options):
    """Batches of 8 in their order: 8 of them in an epoch."""
    data = {"x": X, "y": Y, "batch_size": 8, "shuffle": False, "verbose": 0}
    callbacks = [*schedules(kind), *callbacks]
    return qmodel.fit(**(data | options), epochs=epochs, callbacks=callbacks).history


def assert_same_variables(actual, expected):
    for now, then in zip(actual.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(now, then, err_msg=then.path)


def environment(**more):
    one_thread = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(one_thread, "1"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONFAULTHANDLER": "1",  # a native crash says where it happened
        "PYTHONPATH": str(ROOT),
        **more,
    }


def start(script, *arguments, **more):
    """A Python process of its own, with all that it prints in one text."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        env=environment(**more),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
