"""What users do with `compile`, `fit` and `train_step` acts on quantizers as on layers."""

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
import tflite_export
from tests.models import images
from tests.reliability.tiny import (
    CONFIGS,
    X,
    Y,
    assert_same_variables,
    compiled,
    fit,
    network,
    new_model,
)

pytestmark = pytest.mark.slow_beyond(1)

layers = keras.layers
BATCHES = 16
CLIPS = {"clipvalue": 1e-4, "clipnorm": 1e-3, "global_clipnorm": 1e-2}


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_bounds_the_way_of_weights_and_scales(clip):
    qmodel = new_model(optimizer=keras.optimizers.SGD(1.0, **{clip: CLIPS[clip]}))
    before = [np.array(variable) for variable in qmodel.trainable_variables]
    fit(qmodel)
    moved = [
        np.abs(now.numpy() - then)
        for now, then in zip(qmodel.trainable_variables, before, strict=True)
    ]
    lengths = {
        "clipvalue": max(each.max() for each in moved),
        "clipnorm": max(np.linalg.norm(each) for each in moved),
        "global_clipnorm": np.sqrt(sum(np.sum(each**2) for each in moved)),
    }
    assert 0.0 < lengths[clip] <= 1.001 * CLIPS[clip] * BATCHES  # float32 sums of 16 steps
    scales = [
        each.max()
        for each, variable in zip(moved, qmodel.trainable_variables, strict=True)
        if variable.name == "scale_ratio"
    ]
    assert len(scales) == 4
    assert min(scales) > 0.0


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        part = slice(8 * index, 8 * index + 8)
        return X[part], Y[part]


def generator():
    while True:
        yield from (Batches()[index] for index in range(8))


WAYS = {
    "PyDataset": ("lsq", {"x": Batches(), "y": None, "batch_size": None}, {}),
    "generator": ("pege", {"x": generator(), "y": None, "batch_size": None}, {}),
    "steps_per_execution": ("lsq", {}, {"steps_per_execution": 4}),
}


@pytest.mark.parametrize("way", WAYS)
def test_data_of_every_kind_and_several_steps_at_once_train_the_same(way):
    kind, data, options = WAYS[way]
    expected, qmodel = new_model(kind), new_model(kind, **options)
    fit(expected, kind)
    fit(qmodel, kind, **data, steps_per_epoch=8)
    assert_same_variables(qmodel, expected)


@pytest.mark.slow
def test_weights_of_classes_are_those_of_their_samples():
    weights = {0: 0.5, 1: 2.0, 2: 0.0}
    by_class, by_sample, plain = (new_model() for _ in range(3))
    fit(by_class, class_weight=weights)
    each = np.array([weights[label] for label in Y], np.float32)
    history = fit(by_sample, sample_weight=each)
    assert_same_variables(by_class, by_sample)
    assert history["loss"] != fit(plain)["loss"]


def documented(qmodel):
    """The model with a step of its own that the docstring of `QuantizedModel` makes."""
    (block,) = re.findall(r"```\n(.*?)```", inspect.getdoc(keras_qat.QuantizedModel), re.DOTALL)
    scope = {"keras": keras, "keras_qat": keras_qat, "qmodel": qmodel, "tf": tf}
    exec(block, scope)
    return scope["mine"]


@pytest.mark.slow
def test_a_training_step_of_ones_own_has_the_penalty_and_the_teacher():
    teacher = network()
    trained = []
    for own in (False, True):
        qmodel = new_model("gdnsq", float_model=teacher)
        if own:
            qmodel = compiled(documented(qmodel))
        qmodel.distill_from(teacher, label_weight=0.5)
        history = fit(qmodel, "gdnsq", epochs=8)
        assert history["task_loss"][-1] > 0.0
        trained.append(qmodel)
    assert "train_step" in vars(type(trained[1]))
    assert trained[1].meets_targets()
    assert_same_variables(*trained)


def convolutional():
    inputs = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten(name="flat")(x)))


@pytest.mark.parametrize(
    ("policy", "kind"),
    [("mixed_float16", "gdnsq"), ("mixed_bfloat16", "pege")],
)
def test_mixed_precision_trains_and_deploys(policy, kind, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = convolutional()
    finally:
        keras.config.set_dtype_policy(before)
    x = images(64, (6, 6, 2))
    qmodel = keras_qat.quantize(model, CONFIGS[kind], calibration_data=x)
    compiled(qmodel, keras.optimizers.Adam(1e-3))
    kernel = np.array(qmodel.get_layer("conv").layer.kernel)
    history = fit(qmodel, kind, x=x, y=Y, epochs=8)
    assert np.isfinite(history["loss"]).all()
    assert np.any(kernel != np.array(qmodel.get_layer("conv").layer.kernel))
    assert {variable.dtype for variable in qmodel.weights} == {"float32"}
    path = tmp_path / "model.tflite"
    # The file is what the integers say; the model in Keras sums in 8 or 11 bits of mantissa.
    limits = {"max_flip_rate": 1.0, "min_argmax_agreement": 0.9}
    report = tflite_export.export(qmodel, path, samples=x, verbose=False, **limits)
    assert report.mismatches == 0
