"""A graph with one wrong bias or two swapped channels is refused, whatever the target rounds."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.integer import ops
from tests.models import images, randomize

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")

layers = keras.layers
X = images(64, (8, 8, 3))


@pytest.fixture(scope="module", params=[8, 4, 2])
def qmodel(request):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(12, 3, padding="same", activation="relu", name="first")(inputs)
    x = layers.Conv2D(12, 3, padding="same", activation="relu", name="second")(x)
    x = layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x))
    model = randomize(keras.Model(inputs, x))
    config = keras_qat.LSQConfig(weight_bits=request.param, activation_bits=request.param)
    return keras_qat.quantize(model, config, calibration_data=X)


class Changed:
    """A trained model whose integers have one layer changed."""

    def __init__(self, qmodel, place, change):
        self._qmodel, self._place, self._change = qmodel, place, change

    def to_integer(self):
        graph = self._qmodel.to_integer()
        linear = [op for op in graph.ops if isinstance(op, ops.LinearOp)][self._place]
        changed = [self._change(op, graph) if op is linear else op for op in graph.ops]
        return dataclasses.replace(graph, ops=tuple(changed))

    def layer_codes(self, x):
        return self._qmodel.layer_codes(x)


def wrong_bias(op, graph):
    """The first bias is off by two steps of the layer's output."""
    bias = np.array(op.bias, np.float64)
    bias[0] += 2 * float(graph.tensors[op.output].qparams.scale)
    return dataclasses.replace(op, bias=bias.astype(np.asarray(op.bias).dtype))


def swapped_channels(op, graph):
    """The weights of two output channels are swapped."""
    order = np.arange(len(op.bias))
    order[:2] = 1, 0
    values = np.take(op.weight.values, order, axis=op.channel_axis)
    weight = dataclasses.replace(op.weight, values=values)
    return dataclasses.replace(op, weight=weight)


@pytest.mark.parametrize("target", ["litert", "tflm"])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("change", [wrong_bias, swapped_channels])
def test_it_is_refused_by_its_channel(qmodel, target, place, change, tmp_path):
    path = tmp_path / "net.tflite"
    options = {"target": target, "samples": X, "verify": False, "verbose": False}
    with pytest.raises(tflite_export.ExportError, match=r"on the model's own inputs"):
        tflite_export.export(Changed(qmodel, place, change), path, **options)
    assert not path.exists()


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_the_right_file_passes_and_its_worst_channel_is_close(qmodel, target, tmp_path):
    report = tflite_export.export(
        qmodel, tmp_path / "net.tflite", target=target, samples=X, verbose=False
    )
    assert report.comparison.worst_channel.mean_steps < 0.05
    assert report.comparison.exact_flip_rate < 1e-3
