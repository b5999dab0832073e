"""A single-shot detector: a list of named outputs, each with its own loss."""

import keras
import numpy as np
from keras import ops

from tests.end_to_end.users.deployed import exported, trained

layers = keras.layers
ANCHORS, CLASSES = 2, 4


def ssd():
    inputs = x = keras.Input((32, 32, 3), name="image")
    maps = []
    for filters in (8, 12, 16):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
        maps.append(x)

    def head(size, name):
        found = [layers.Conv2D(ANCHORS * size, 3, padding="same")(x) for x in maps[1:]]
        flat = [layers.Reshape((-1, size))(each) for each in found]
        return layers.Concatenate(axis=1, name=name)(flat)

    return keras.Model(inputs, [head(4, "boxes"), head(CLASSES, "scores")])


@keras.saving.register_keras_serializable(package="ssd")
def smooth_l1(truth, predicted):
    distance = ops.abs(truth - predicted)
    return ops.mean(ops.where(distance < 1.0, 0.5 * distance**2, distance - 0.5), axis=-1)


def test_outputs_keep_their_names_and_losses(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(48, 32, 32, 3)).astype(np.float32)
    count = ANCHORS * (8 * 8 + 4 * 4)
    y = [
        rng.uniform(-1, 1, (48, count, 4)).astype(np.float32),
        rng.integers(0, CLASSES, (48, count)),
    ]
    losses = {
        "boxes": smooth_l1,
        "scores": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }
    weights = {"boxes": 2.0, "scores": 1.0}
    qmodel = trained(ssd(), x, y, loss=losses, loss_weights=weights)
    reports = exported(qmodel, x, tmp_path, outputs={"boxes": "values"})
    for report in reports.values():
        boxes, scores = report.comparison.outputs
        assert (boxes.name, boxes.kind, scores.name, scores.kind) == (
            *("boxes", "values"),
            *("scores", "scores"),
        )
        assert scores.positions == 48 * count
