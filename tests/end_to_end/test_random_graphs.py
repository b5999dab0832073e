"""Random networks: a training step, export, and no difference to any runtime."""

from __future__ import annotations

import collections
import dataclasses
import os
from typing import Any

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, event, given, note, settings

import keras_qat
from keras_qat.errors import UnsupportedLayerError
from keras_qat.integer import IntegerGraph
from tests.random_graphs import configs, described, inputs_of, networks
from tests.seams import assert_no_mismatch, op_differences, target_flips

GRAPHS = int(os.environ.get("RANDOM_GRAPHS", "60"))
"""How many networks; a thorough run by hand takes 2,000."""
_MOST_REFUSED = 0.05
_PROGRESS = 100
_REFUSALS = (
    "needs a bias beyond int32",
    "outside what",  # a rescaling that the target does not compute
    "ends half way between two integers",
    "needs a scale above",
    "there is nothing to export",  # a ReLU of what is never negative
    "The model's own values are",  # an exponential of inputs of 50: infinite, or nearly
)
_SAMPLES = 2


@pytest.fixture(autouse=True)
def _nothing_is_compiled(monkeypatch):
    """Tracing a network would take longer than all that is asked of it here."""

    def predict(model, x, **_):
        return keras.tree.map_structure(keras.ops.convert_to_numpy, model(x, training=False))

    monkeypatch.setattr(keras.Model, "predict", predict)
    monkeypatch.setattr(keras.Model, "predict_on_batch", predict)
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@dataclasses.dataclass(frozen=True, eq=False)
class Stated:
    """A trained model whose integers were asked for already."""

    graph: IntegerGraph
    codes: dict[str, np.ndarray]

    def to_integer(self) -> IntegerGraph:
        return self.graph

    def layer_codes(self, x: Any) -> dict[str, np.ndarray]:
        return self.codes


def trained(network, config, x):
    """Quantized, and one step away from where calibration left it."""
    qmodel = keras_qat.quantize(network, config, calibration_data=x)
    qmodel.compile(keras.optimizers.Adam(1e-3), "mse", run_eagerly=True)
    qmodel.train_on_batch(x, [np.zeros((4, *tensor.shape[1:])) for tensor in qmodel.outputs])
    return qmodel


def few(x):
    """Enough examples for the runtimes."""
    return (
        {name: each[:_SAMPLES] for name, each in x.items()} if isinstance(x, dict) else x[:_SAMPLES]
    )


def prove(qmodel, x, target, storage, path):
    """The laws E2, an equality for TFLite Micro, and E3."""
    qmodel.compute_as(target, storage)
    stated = Stated(qmodel.to_integer(), qmodel.layer_codes(x))
    if target == "litert":
        for difference in op_differences(stated.graph, stated.codes):
            assert difference.largest <= 1, difference
    else:
        assert target_flips(qmodel, x, target, storage) == {}
    assert_no_mismatch(stated, x, target, path, storage)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The structure of `inputs` doesn't match:UserWarning",  # probes take a list of one
    "ignore:The model does not have any trainable weights:UserWarning",
    "ignore:Do not use the `random` module",  # Keras draws the seeds of initializers from it
)
def test_every_network_is_what_the_runtimes_compute(tmp_path):
    endings: collections.Counter[str] = collections.Counter()

    @settings(
        max_examples=GRAPHS,
        derandomize=True,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        network=networks(),
        config=configs(),
        target=st.sampled_from(["litert", "tflm"]),
        packed=st.sampled_from([False, False, True]),
        scale=st.sampled_from([1.0, 0.03, 50.0]),
        signed=st.booleans(),
    )
    def law(network, config, target, packed, scale, signed):
        note(described(network))
        x = inputs_of(network, scale, signed)
        try:
            storage = {"litert": "int2", "tflm": "int4"}[target] if packed else "auto"
            prove(trained(network, config, x), few(x), target, storage, tmp_path / "net.tflite")
            endings["proven"] += 1
        except (ValueError, UnsupportedLayerError) as error:
            if not any(reason in str(error) for reason in _REFUSALS):
                raise
            endings["refused"] += 1
            event(f"refused: {type(error).__name__}")
        keras.backend.clear_session()
        if endings.total() % _PROGRESS == 0:
            print(dict(endings), flush=True)

    law()
    print(dict(endings))
    assert endings["refused"] <= max(1, _MOST_REFUSED * endings.total()), endings
