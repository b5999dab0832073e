"""Weight decay is for weights: scales, ranges and logarithms of grids stay as they are."""

import itertools

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.keras_graph import exclude_from_weight_decay
from keras_qat.optimizers import RAdam
from tests.reliability.tiny import CONFIGS, X, Y, new_model, schedules

pytestmark = pytest.mark.slow_beyond(1)

NO_STEP = {"learning_rate": 1e-9, "weight_decay": 1e6}
OPTIMIZERS = {
    "Adam": keras.optimizers.Adam,
    "AdamW": keras.optimizers.AdamW,
    "Lion": keras.optimizers.Lion,
    "RAdam": RAdam,
    "SGD": keras.optimizers.SGD,
}
KINDS = {**CONFIGS, "dorefa": keras_qat.DoReFaConfig(weight_bits=3, activation_bits=3)}


def of_grids(qmodel):
    return {v.path for q in qmodel.quantizers for v in q.trainable_variables}


def trained(qmodel, kind, how):
    before = {v.path: np.array(v) for v in qmodel.trainable_variables}
    if how == "fit":
        qmodel.fit(X, Y, batch_size=32, verbose=0, callbacks=schedules(kind))
    elif how == "train_on_batch":
        qmodel.train_on_batch(X, Y)
    else:
        qmodel.optimizer.build(qmodel.trainable_variables)
        qmodel.train_step((X, Y))
    now = {v.path: np.array(v) for v in qmodel.trainable_variables}
    return {path for path in now if np.abs(now[path] - before[path]).max() > 1e-6}


# Every grid in fit, and every way to train with the two whose variables differ most.
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *((kind, "fit") for kind in KINDS),
        *itertools.product(["lsq", "gdnsq"], ["train_on_batch", "train_step"]),
    ],
)
def test_grids_do_not_decay_and_weights_do(kind, how):
    config = KINDS[kind]
    qmodel = new_model(config, keras.optimizers.AdamW(**NO_STEP))
    if kind == "gdnsq":
        for width in qmodel.learned_widths:
            width.narrow()  # so that no schedule is missed
    changed = trained(qmodel, "pege" if kind == "pege" and how == "fit" else "none", how)
    assert not changed & of_grids(qmodel)
    assert {path.rpartition("/")[2] for path in changed} >= {"kernel"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer(name):
    qmodel = new_model("lsq", OPTIMIZERS[name](**NO_STEP))
    changed = trained(qmodel, "lsq", "fit")
    assert changed
    assert not changed & of_grids(qmodel)


def test_the_optimizer_inside_a_loss_scale_optimizer():
    inner = keras.optimizers.AdamW(**NO_STEP)
    qmodel = new_model("lsq", keras.optimizers.LossScaleOptimizer(inner))
    changed = trained(qmodel, "lsq", "fit")
    assert changed
    assert not changed & of_grids(qmodel)


def test_what_the_user_excluded_stays_excluded():
    optimizer = keras.optimizers.AdamW(**NO_STEP)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    qmodel = new_model("lsq", optimizer)
    kernel = qmodel.get_layer("last").layer.kernel
    exclude_from_weight_decay(optimizer, [kernel])
    changed = trained(qmodel, "lsq", "fit")
    assert changed == {qmodel.get_layer("first").layer.kernel.path}


def test_a_loaded_model_with_a_built_optimizer(tmp_path):
    qmodel = new_model("lsq", keras.optimizers.AdamW(**NO_STEP))
    trained(qmodel, "lsq", "fit")
    qmodel.save(tmp_path / "model.keras")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.built
    changed = trained(loaded, "lsq", "fit")
    assert changed
    assert not changed & of_grids(loaded)


def test_a_model_around_decays_no_grids_either():
    qmodel = new_model("lsq")
    before = {v.path: np.array(v) for v in qmodel.trainable_variables}
    inputs = keras.Input((6,))
    outer = keras.Model(inputs, qmodel(inputs))
    outer.compile(keras.optimizers.AdamW(**NO_STEP), "mse")
    outer.fit(X, np.zeros((64, 3)), verbose=0)
    now = {v.path: np.array(v) for v in qmodel.trainable_variables}
    changed = {path for path in now if np.abs(now[path] - before[path]).max() > 1e-6}
    assert changed
    assert not changed & of_grids(qmodel)


def test_loss_scale_optimizers_inside_each_other():
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(**NO_STEP))
    qmodel = new_model("lsq", keras.optimizers.LossScaleOptimizer(inner))
    assert not trained(qmodel, "lsq", "fit") & of_grids(qmodel)
