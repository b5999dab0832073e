"""Running statistics set anew: those of the data, of the weights as they are, and nothing else."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.callbacks import BatchNormReestimation, PEGESchedule
from keras_qat.training.fitted_statistics import add_reestimation
from tests.models import depthwise_network, images

pytestmark = pytest.mark.slow_beyond(1)

X = images(96, (8, 8, 3))
Y = np.arange(96) % 5
PEGE = keras_qat.PEGEConfig(weight_bits=2, activation_bits=2)
GDNSQ = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=2, estimator="pege")


def batches(x=X):
    return iter(np.split(x, 3))


def new_model(config=PEGE):
    keras.utils.set_random_seed(0)
    qmodel = keras_qat.quantize(depthwise_network(), config, calibration_data=X)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile(keras.optimizers.Adam(1e-2), loss)
    return qmodel


def normalizations(model):
    return [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]


def statistics(model):
    return [
        variable.numpy()
        for layer in normalizations(model)
        for variable in (layer.moving_mean, layer.moving_variance)
    ]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_they_are_those_of_all_samples_where_nothing_is_in_front():
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    x = np.random.default_rng(0).normal(3.0, 2.0, (60, 4)).astype(np.float32)
    keras_qat.reestimate_batch_normalization(model, iter(np.split(x, [8, 30])))
    layer = model.layers[0]
    # Sums of float32, up to thirty at a time.
    np.testing.assert_allclose(layer.moving_mean.numpy(), x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.numpy(), x.var(axis=0), rtol=1e-5)


@pytest.mark.parametrize("config", [PEGE, GDNSQ], ids=["pege", "gdnsq"])
def test_behind_quantizers_they_are_those_of_what_the_layer_reads(config):
    qmodel = new_model(config)
    keras_qat.reestimate_batch_normalization(qmodel, iter([X]))
    found = statistics(qmodel)
    read = keras.Model(qmodel.inputs, [layer.input for layer in normalizations(qmodel)])
    for quantizer in qmodel.replaced_quantizers.values():
        quantizer.replaced_share.assign(1.0)
    for index, values in enumerate(read([X], training=True)):
        values = np.float64(values)
        # A variance in float32 is off by as much as its terms, squares of up to 10 deviations.
        mean, variance = values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))
        np.testing.assert_allclose(found[2 * index], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[2 * index + 1], variance, rtol=1e-4)


@pytest.mark.parametrize("config", [PEGE, GDNSQ], ids=["pege", "gdnsq"])
def test_nothing_else_changes(config):
    qmodel = new_model(config)
    own = {id(v) for layer in normalizations(qmodel) for v in layer.non_trainable_variables}
    others = [variable for variable in qmodel.variables if id(variable) not in own]
    before = [variable.numpy() for variable in others]
    momenta = [layer.momentum for layer in normalizations(qmodel)]
    keras_qat.reestimate_batch_normalization(qmodel, batches())
    assert_same([variable.numpy() for variable in others], before)
    assert [layer.momentum for layer in normalizations(qmodel)] == momenta


def test_progressive_replacement_does_not_matter():
    found = []
    for share in (0.25, 1.0):
        qmodel = new_model()
        for quantizer in qmodel.replaced_quantizers.values():
            quantizer.replaced_share.assign(share)
        keras_qat.reestimate_batch_normalization(qmodel, batches())
        found.append(statistics(qmodel))
    assert_same(*found)


def test_a_frozen_layer_keeps_its_statistics():
    qmodel = new_model()
    frozen, other = normalizations(qmodel)
    frozen.trainable = False
    kept, moved = frozen.moving_mean.numpy(), other.moving_mean.numpy()
    keras_qat.reestimate_batch_normalization(qmodel, batches())
    np.testing.assert_array_equal(frozen.moving_mean.numpy(), kept)
    assert np.abs(other.moving_mean.numpy() - moved).max() > 0.0


def test_a_layer_that_is_called_twice_gets_the_averages_over_its_calls():
    inputs, shared = keras.Input((3,)), keras.layers.BatchNormalization(name="shared")
    dense = keras.layers.Dense(3)
    model = keras.Model(inputs, shared(dense(shared(inputs))))
    x = np.random.default_rng(0).normal(2.0, 3.0, (40, 3)).astype(np.float32)
    keras_qat.reestimate_batch_normalization(model, iter(np.split(x, [16])))
    means, variances = [], []
    for batch in np.split(x, [16]):
        second = dense((batch - batch.mean(0)) / np.sqrt(batch.var(0) + shared.epsilon))
        means.append([batch.mean(0), np.mean(second, 0)])
        variances.append([batch.var(0), np.var(second, 0)])
    weights = np.repeat([16 / 40 / 2, 24 / 40 / 2], 2)
    mean = np.average(np.reshape(means, (4, 3)), axis=0, weights=weights)
    spread = np.square(np.reshape(means, (4, 3)) - mean) + np.reshape(variances, (4, 3))
    np.testing.assert_allclose(shared.moving_mean, mean, rtol=1e-4, atol=1e-6)  # float32 sums
    variance = np.average(spread, axis=0, weights=weights)
    np.testing.assert_allclose(shared.moving_variance, variance, rtol=1e-4)


def test_a_model_without_batch_normalization_is_left_alone():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    before = model.get_weights()
    keras_qat.reestimate_batch_normalization(model, np.ones((4, 3), np.float32))
    assert_same(model.get_weights(), before)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.ones((4, 5, 5, 3)), "shape"),
        (X[:0], "no samples|shape"),
        (X * np.nan, "NaN or infinity"),
    ],
)
def test_data_that_does_not_fit_changes_nothing(data, message):
    qmodel = new_model()
    before = statistics(qmodel)
    with pytest.raises(ValueError, match=message):
        keras_qat.reestimate_batch_normalization(qmodel, data)
    assert_same(statistics(qmodel), before)


def test_an_interrupted_pass_leaves_the_model_as_it_was():
    qmodel = new_model()
    before = [variable.numpy() for variable in qmodel.variables]
    momenta = [layer.momentum for layer in normalizations(qmodel)]

    def fail(*args, **kwargs):
        raise ValueError("no more")

    qmodel.layers[-1].call = fail
    with pytest.raises(ValueError, match="no more"):
        keras_qat.reestimate_batch_normalization(qmodel, batches())
    assert_same([variable.numpy() for variable in qmodel.variables], before)
    assert [layer.momentum for layer in normalizations(qmodel)] == momenta


def fit(qmodel, *callbacks, **options):
    options = {"batch_size": 32, "epochs": 2, "verbose": 0, "shuffle": False, **options}
    return qmodel.fit(X, Y, callbacks=[*callbacks], **options).history


def test_training_goes_on_as_it_would_have():
    one, other = new_model(), new_model()
    fit(one, PEGESchedule())
    fit(other, PEGESchedule(), BatchNormReestimation(batches()))
    for found, expected in zip(one.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert np.abs(statistics(one)[0] - statistics(other)[0]).max() > 0.0


@pytest.mark.parametrize("validated", [False, True])
def test_fit_leaves_the_statistics_of_its_last_weights(validated):
    qmodel = new_model()
    options = {"validation_data": (X, Y)} if validated else {}
    history = fit(qmodel, PEGESchedule(), BatchNormReestimation(batches()), **options)
    if validated:
        loss = qmodel.evaluate(X, Y, batch_size=32, verbose=0)
        assert loss == pytest.approx(history["val_loss"][-1], rel=1e-6)
    found = statistics(qmodel)
    keras_qat.reestimate_batch_normalization(qmodel, batches())
    assert_same(statistics(qmodel), found)


def test_once_in_an_epoch_and_once_at_the_end(monkeypatch):
    calls = []
    callback = BatchNormReestimation(batches())
    monkeypatch.setattr(
        "keras_qat.training.batch_normalization.Reestimation.__call__", lambda self: calls.append(1)
    )
    fit(new_model(), PEGESchedule(), callback, epochs=3, validation_data=(X, Y))
    assert len(calls) == 3 + 1


def test_a_file_has_the_new_statistics():
    qmodel = new_model()
    fit(qmodel, PEGESchedule(), BatchNormReestimation(batches()))
    codes = qmodel.layer_codes(X)
    graph = keras_qat.integer.add_headroom(qmodel.to_integer())
    values = keras_qat.integer.run(graph, codes["image"], "xnnpack", keep_all=True)
    assert all(np.array_equal(codes[name], values[name]) for name in codes)


# By default, in `fit`.


def fitted(config=PEGE, x=X, y=Y, callbacks=(), **options):
    """A model after `fit`, and the statistics that re-estimation on `x` gives its weights."""
    qmodel = new_model(config)
    options = {"epochs": 1, "verbose": 0, "batch_size": 32, **options}
    qmodel.fit(x, y, callbacks=[PEGESchedule(), *callbacks], **options)
    found = statistics(qmodel)
    return qmodel, found


def in_order(x):
    """Batches of 32 in the order in which `fit` takes its sample of an array."""
    x = x[np.random.default_rng(0).permutation(len(x))]
    return iter([x[start : start + 32] for start in range(0, len(x), 32)])


def test_at_two_bits_fit_ends_with_the_statistics_of_its_weights():
    qmodel, found = fitted()
    keras_qat.reestimate_batch_normalization(qmodel, in_order(X))
    assert_same(found, statistics(qmodel))


@pytest.mark.parametrize(
    ("options", "bits"), [({}, 3), ({"reestimate": False}, 2)], ids=["three_bits", "turned_off"]
)
def test_it_does_not_otherwise(options, bits):
    qmodel, found = fitted(keras_qat.PEGEConfig(weight_bits=bits, activation_bits=bits), **options)
    keras_qat.reestimate_batch_normalization(qmodel, in_order(X))
    assert any((one != other).any() for one, other in zip(found, statistics(qmodel), strict=True))


def test_it_can_be_asked_for_at_any_bits():
    qmodel, found = fitted(keras_qat.PEGEConfig(weight_bits=4, activation_bits=4), reestimate=True)
    keras_qat.reestimate_batch_normalization(qmodel, in_order(X))
    assert_same(found, statistics(qmodel))


def test_training_itself_stays_as_it_was():
    def weights(**options):
        qmodel, _ = fitted(epochs=2, **options)
        own = {id(v) for layer in normalizations(qmodel) for v in layer.non_trainable_variables}
        return [v.numpy() for v in qmodel.variables if id(v) not in own]

    assert_same(weights(), weights(reestimate=False))


def test_samples_that_validate_are_left_out():
    qmodel, found = fitted(validation_split=0.25)
    keras_qat.reestimate_batch_normalization(qmodel, in_order(X[:72]))
    assert_same(found, statistics(qmodel))


def test_a_callback_of_ones_own_takes_its_place():
    qmodel, found = fitted(callbacks=[BatchNormReestimation(iter([X[:48]]))])
    keras_qat.reestimate_batch_normalization(qmodel, iter([X[:48]]))
    assert_same(found, statistics(qmodel))


def test_checkpoints_and_validation_have_the_statistics_of_their_weights(tmp_path):
    path = tmp_path / "last.keras"
    qmodel = new_model()
    history = qmodel.fit(
        X,
        Y,
        validation_data=(X, Y),
        epochs=2,
        verbose=0,
        callbacks=[PEGESchedule(), keras.callbacks.ModelCheckpoint(path)],
    ).history
    assert history["val_loss"][-1] == pytest.approx(qmodel.evaluate(X, Y, verbose=0), rel=1e-6)
    loaded = keras_qat.load_model(path)
    assert_same(statistics(loaded), statistics(qmodel))


@pytest.mark.parametrize("swap_on_epoch", [False, True])
def test_averages_of_weights_are_evaluated_and_saved_with_their_own_statistics(
    swap_on_epoch, tmp_path
):
    path = tmp_path / "last.keras"
    qmodel = new_model()
    average = keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.8)
    qmodel.compile(average, qmodel.loss)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch)
    callbacks = [PEGESchedule(), swap, keras.callbacks.ModelCheckpoint(path)]
    data = {"validation_data": (X, Y), "epochs": 2, "verbose": 0}
    history = qmodel.fit(X, Y, **data, callbacks=callbacks).history
    # Of a float model the last logs are those of the weights that are left, too.
    assert history["val_loss"][-1] == pytest.approx(qmodel.evaluate(X, Y, verbose=0), rel=1e-5)
    for each in (qmodel, keras_qat.load_model(path)):
        found = statistics(each)
        keras_qat.reestimate_batch_normalization(each, in_order(X))
        assert_same(found, statistics(each))


def test_of_a_dataset_it_takes_augmented_batches_and_of_a_generator_loses_none():
    import tensorflow as tf

    def doubled(x, y):
        return 2.0 * x, y

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32).map(doubled)
    qmodel, found = fitted(x=data, y=None, batch_size=None, shuffle=False)
    keras_qat.reestimate_batch_normalization(qmodel, iter(np.split(2.0 * X, 3)))
    assert_same(found, statistics(qmodel))

    def generator():
        for batch in range(3):
            seen.append(batch)
            yield 2.0 * X[32 * batch : 32 * batch + 32], Y[32 * batch : 32 * batch + 32]

    seen = []
    other, same = fitted(x=generator(), y=None, batch_size=None, steps_per_epoch=3, shuffle=False)
    assert seen == [0, 1, 2]
    assert_same(same, found)
    assert_same(other.get_weights(), qmodel.get_weights())

    class Sequence(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return 2.0 * X[32 * index : 32 * index + 32], Y[32 * index : 32 * index + 32]

    _, same = fitted(x=Sequence(), y=None, batch_size=None, shuffle=False)
    assert_same(same, found)


def test_a_dataset_that_cannot_be_sampled_is_said_with_the_ways_out():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    spread = tf.distribute.MirroredStrategy(["CPU:0"]).experimental_distribute_dataset(data)
    qmodel, arguments = new_model(), {"x": spread}
    with pytest.warns(UserWarning, match="DistributedDataset cannot be sampled"):
        assert add_reestimation(qmodel, arguments, None) is None
    assert arguments == {"x": spread}
    assert add_reestimation(qmodel, arguments, False) is None
    own = {"x": spread, "callbacks": [BatchNormReestimation(X)]}
    assert add_reestimation(qmodel, own, None) is None
