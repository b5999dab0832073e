"""`QuantizedModel.distill_from`: the teacher teaches, and is neither trained nor kept."""

import zipfile

import keras
import numpy as np
import pytest
from keras import ops

import keras_qat
from keras_qat.training.losses import DISTILLATION_LOSSES, jeffreys_divergence
from tests.models import dense_network, points
from tests.untouched import untouched

X, Y = points(64)
layers = keras.layers


def new_model(teacher=None, **options):
    float_model = dense_network()
    qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=X)
    qmodel.distill_from(teacher, **options)
    qmodel.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return qmodel, float_model


def training_loss(qmodel, **options):
    """Of the first batch, before any step: in inference mode nothing of these models differs."""
    outputs = qmodel(X, training=True)
    return float(qmodel.compute_loss(X, Y, outputs, **options))


def logits(model):
    return np.log(ops.convert_to_numpy(model(X)))


def test_the_loss_is_the_divergence_from_the_float_original():
    qmodel, float_model = new_model()
    expected = jeffreys_divergence(np.log(qmodel(X, training=True)), logits(float_model))
    # The logarithm of a softmax differs from its logits in rounding, and by a constant.
    assert training_loss(qmodel) == pytest.approx(float(expected), rel=1e-3)


def network(units, activation=None, name="out"):
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(units, activation=activation, name=name)(hidden))


def quantized(float_model, compiled, **options):
    qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=X)
    qmodel.distill_from(**options)
    qmodel.compile("adam", compiled)
    return qmodel


@pytest.mark.parametrize("units", [1, 4])
@pytest.mark.parametrize("loss", ["l1", "l2", None])
def test_a_regression_learns_from_outputs_as_they_are(loss, units):
    float_model = network(units)
    qmodel = quantized(float_model, "mse", loss=loss)
    difference = np.asarray(qmodel(X, training=True)) - np.asarray(float_model(X))
    expected = np.mean(np.abs(difference) if loss == "l1" else np.square(difference))
    assert training_loss(qmodel) == pytest.approx(float(expected), rel=1e-5)


def test_a_loss_on_classes_of_one_number_is_refused():
    """It would be 0 for every output, and nothing would train."""
    qmodel = quantized(network(1), "mse", loss="jeffreys")
    with pytest.raises(ValueError, match='loss="l2" or loss="l1"'):
        qmodel.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match='loss="l2" or loss="l1"'):
        qmodel.distill_from(loss="jeffreys")


def own_loss(labels, outputs):
    return ops.mean(ops.abs(outputs - labels), axis=-1)


def test_outputs_that_may_be_anything_are_refused():
    float_model = network(3)
    with pytest.raises(ValueError, match=r'"jeffreys"\) for classes, or distill_from\(loss="l2"'):
        quantized(float_model, own_loss).fit(X, np.zeros((64, 3)), verbose=0)
    classes = quantized(float_model, own_loss, loss="jeffreys")
    logits_too = quantized(float_model, own_loss, from_logits=True)
    expected = jeffreys_divergence(classes(X, training=True), float_model(X))
    for each in (classes, logits_too):
        assert training_loss(each) == pytest.approx(float(expected), rel=1e-5)
    values = quantized(float_model, own_loss, loss="l2")
    expected = np.mean(np.square(np.asarray(values(X, training=True)) - np.asarray(float_model(X))))
    assert training_loss(values) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_labels_are_compared_as_true_or_false_each(units, activation):
    float_model, teacher = network(units, activation), network(units, activation)
    loss = keras.losses.BinaryCrossentropy(from_logits=activation is None)
    qmodel = quantized(float_model, loss, teacher=teacher)
    p, y = (np.asarray(model(X, training=True)) for model in (qmodel, teacher))
    if activation is None:
        p, y = (1 / (1 + np.exp(-each)) for each in (p, y))
    expected = np.mean((p - y) * (np.log(p / (1 - p)) - np.log(y / (1 - y))))
    assert training_loss(qmodel) == pytest.approx(float(expected), rel=1e-3)
    before = training_loss(qmodel)
    qmodel.optimizer.learning_rate = 0.01
    qmodel.fit(X, np.zeros((64, units)), epochs=10, batch_size=16, verbose=0)
    assert training_loss(qmodel) < before


def softmax_inside(x):
    inner = keras.Input((3,))
    return keras.Model(inner, layers.Activation("softmax")(inner))(x)


@pytest.mark.parametrize(
    "softmax",
    [
        softmax_inside,
        ops.softmax,
        keras.activations.softmax,
        layers.Softmax(),
        lambda x: layers.Reshape((3,))(ops.softmax(x)),
    ],
    ids=["nested", "operation", "function", "layer", "reshaped"],
)
def test_a_softmax_anywhere_at_the_end_makes_probabilities(softmax):
    logits_of = network(3)
    teacher = keras.Model(logits_of.input, softmax(logits_of.output))
    for student in (logits_of, teacher):
        qmodel = quantized(student, "kl_divergence", teacher=teacher, loss="kl")
        qmodel.compile("adam", own_loss)
        outputs = qmodel(X, training=True)
        student_logits = outputs if student is logits_of else ops.log(outputs)
        expected = DISTILLATION_LOSSES["kl"](student_logits, logits_of(X))
        assert training_loss(qmodel) == pytest.approx(float(expected), rel=1e-3, abs=1e-6)


class Unknown(layers.Layer):
    def call(self, x):
        return ops.softmax(x)


def test_a_teacher_that_ends_in_unknown_code_has_to_say_what_it_yields():
    inner = network(3)
    teacher = keras.Model(inner.input, Unknown()(inner.output))
    student = network(3, "softmax")
    with pytest.raises(ValueError, match="from_logits=True or from_logits=False"):
        training_loss(quantized(student, "kl_divergence", teacher=teacher))
    said = quantized(student, "kl_divergence", teacher=teacher, from_logits=False)
    teacher.compile(loss="sparse_categorical_crossentropy")
    known = quantized(student, "kl_divergence", teacher=teacher)
    assert training_loss(said) == training_loss(known)


def test_weights_count_as_in_the_compiled_loss():
    teacher = network(3, "softmax")
    qmodel, _ = new_model(teacher)
    weights = np.linspace(0.0, 2.0, 64).astype(np.float32)
    found = float(qmodel.compute_loss(X, Y, qmodel(X, training=True), weights))
    p, y = (np.log(model(X, training=True)) for model in (qmodel, teacher))
    expected = np.mean(weights * np.sum((np.exp(p) - np.exp(y)) * (p - y), axis=-1))
    assert found == pytest.approx(expected, rel=1e-3)
    assert abs(found - training_loss(qmodel)) > 1e-2


def test_class_weights_of_zero_leave_a_class_out():
    qmodel, _ = new_model()
    before = qmodel.get_weights()
    qmodel.fit(X, Y, class_weight={0: 0.0, 1: 0.0, 2: 0.0}, verbose=0)
    for now, then in zip(qmodel.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_masked_steps_do_not_count():
    inputs = keras.Input((5, 6))
    masked = layers.Masking()(inputs)
    float_model = keras.Model(inputs, layers.Dense(3, activation="softmax")(masked))
    x = np.random.default_rng(0).normal(size=(8, 5, 6)).astype(np.float32)
    x[:, 3:] = 0.0
    qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=x, overrides={"masking": None})
    qmodel.distill_from()
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    found = float(qmodel.compute_loss(x, np.zeros((8, 5)), qmodel(x, training=True)))
    seen = [np.log(model(x, training=True))[:, :3] for model in (qmodel, float_model)]
    assert found == pytest.approx(float(jeffreys_divergence(*seen)), rel=1e-3)


def test_a_loss_of_one_number_cannot_be_weighted():
    def one(student, teacher):
        return ops.mean(ops.square(student - teacher))

    def each(student, teacher):
        return ops.mean(ops.square(student - teacher), axis=-1)

    teacher = network(3, "softmax")
    qmodel, _ = new_model(teacher, loss=one)
    with pytest.raises(ValueError, match="Return one number for each example"):
        qmodel.compute_loss(X, Y, qmodel(X, training=True), np.ones(64))
    plain = training_loss(qmodel)
    qmodel.distill_from(teacher, loss=each)
    weighted = float(qmodel.compute_loss(X, Y, qmodel(X, training=True), np.ones(64)))
    assert weighted == pytest.approx(plain, rel=1e-5)


def two_outputs(first, second, as_dict=False):
    inputs = keras.Input((6,))
    named = {name: layers.Dense(3, name=name)(inputs) for name in sorted((first, second))}
    if as_dict:
        return keras.Model(inputs, {name: named[name] for name in (first, second)})
    return keras.Model(inputs, [named[first], named[second]])


@pytest.mark.parametrize("as_dict", [True, False])
def test_names_decide_which_outputs_belong_together(as_dict):
    student, teacher = two_outputs("box", "cls"), two_outputs("cls", "box", as_dict)
    qmodel = keras_qat.quantize(student, "lsq", calibration_data=X)
    qmodel.distill_from(teacher)
    qmodel.compile("adam", {"box": "mse", "cls": own_loss})
    with pytest.raises(ValueError, match=r"'cls'.*may be logits of classes or values"):
        qmodel.distill_from(teacher)
    logits_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights = {"box": 2.0, "cls": 1.0}
    qmodel.compile("adam", {"box": "mse", "cls": logits_loss}, loss_weights=weights)
    qmodel.distill_from(teacher)
    students, teachers = qmodel(X, training=True), teacher(X)
    teachers = [teachers[name] for name in ("box", "cls")] if as_dict else teachers[::-1]
    expected = 2.0 * np.mean(np.square(students[0] - teachers[0]))
    expected += float(jeffreys_divergence(students[1], teachers[1]))
    labels = {"box": np.zeros((64, 3)), "cls": Y}
    found = float(qmodel.compute_loss(X, labels, students))
    assert found == pytest.approx(expected, rel=1e-5)


def test_names_decide_which_inputs_belong_together():
    def sums(*names):
        inputs = {name: keras.Input((6,), name=name) for name in names}
        weights = {"left": 1.0, "right": 2.0}
        scaled = [layers.Rescaling(weights[name])(x) for name, x in sorted(inputs.items())]
        return keras.Model(list(inputs.values()), layers.Dense(2, name="d")(layers.Add()(scaled)))

    student, teacher = sums("left", "right"), sums("right", "left")
    teacher.set_weights(student.get_weights())
    qmodel = keras_qat.quantize(student, "lsq", calibration_data=[X, X[::-1].copy()])
    losses = []
    for each in (student, teacher):
        qmodel.distill_from(each, loss="l2")
        qmodel.compile("adam", "mse")
        pair = [X, X[::-1].copy()]
        losses.append(float(qmodel.compute_loss(pair, None, qmodel(pair, training=True))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_names_that_agree_in_part_only_are_refused():
    student, teacher = two_outputs("box", "cls"), two_outputs("cls", "other")
    with pytest.raises(ValueError, match="neither by name nor by place"):
        quantized(student, "mse", teacher=teacher)


def test_an_image_of_classes_learns_from_every_pixel():
    inputs = keras.Input((4, 4, 3))
    float_model = keras.Model(inputs, layers.Conv2D(5, 3, padding="same")(inputs))
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=x)
    qmodel.distill_from()  # the compiled loss then tells that these are logits
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    qmodel.compile("adam", loss)
    outputs = qmodel(x, training=True)
    found = float(qmodel.compute_loss(x, np.zeros((8, 4, 4)), outputs))
    pixels = [ops.reshape(each, (-1, 5)) for each in (outputs, float_model(x))]
    assert found == pytest.approx(float(jeffreys_divergence(*pixels)), rel=1e-5)


def test_labels_are_added_as_weighted_and_regularizers_once():
    float_model = dense_network()
    float_model.get_layer("hidden").kernel_regularizer = keras.regularizers.L2(0.01)
    losses = []
    for weight in (0.0, 0.5):
        qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=X)
        qmodel.distill_from(label_weight=weight)
        qmodel.compile("adam", "sparse_categorical_crossentropy")
        losses.append(training_loss(qmodel))
    labels = keras.losses.sparse_categorical_crossentropy(Y, qmodel(X, training=True))
    expected = losses[0] + 0.5 * float(ops.mean(labels))
    assert losses[1] == pytest.approx(expected, rel=1e-5)


def test_training_moves_towards_the_teacher_and_not_the_labels():
    qmodel, float_model = new_model()
    wrong = (Y + 1) % 3
    before = training_loss(qmodel)
    qmodel.fit(X, wrong, epochs=20, batch_size=16, verbose=0)
    assert training_loss(qmodel) < before
    same = np.argmax(logits(qmodel), -1) == np.argmax(logits(float_model), -1)
    assert same.mean() > 0.9


def test_metrics_and_evaluation_stay_the_users():
    qmodel, _ = new_model()
    scores = qmodel.evaluate(X, Y, verbose=0, return_dict=True)
    labels = keras.losses.sparse_categorical_crossentropy(Y, qmodel(X))
    assert set(scores) == {"loss", "accuracy"}
    assert scores["loss"] == pytest.approx(float(ops.mean(labels)), rel=1e-5)


def test_the_teacher_is_neither_trained_nor_saved(tmp_path):
    qmodel, float_model = new_model()
    plain = keras_qat.quantize(dense_network(), "lsq", calibration_data=X)
    assert qmodel.count_params() == plain.count_params()
    with untouched(float_model, X):
        qmodel.fit(X, Y, epochs=2, verbose=0)
    qmodel.save(tmp_path / "model.keras")
    text = zipfile.ZipFile(tmp_path / "model.keras").read("config.json").decode()
    assert "istill" not in text
    assert text.count('"hidden"') == zipfile_text(plain, tmp_path).count('"hidden"')
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), qmodel(X))
    with pytest.raises(ValueError, match=r"Pass the teacher: qmodel.distill_from"):
        loaded.distill_from()
    loaded.distill_from(float_model)
    loaded.fit(X, Y, verbose=0)


def zipfile_text(model, folder):
    model.save(folder / "plain.keras")
    return zipfile.ZipFile(folder / "plain.keras").read("config.json").decode()


def test_any_model_may_teach():
    teacher = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="logits")])
    qmodel, _ = new_model(teacher, from_logits=None, loss="kl")
    assert np.isfinite(training_loss(qmodel))
    qmodel.fit(X, Y, verbose=0)


def test_a_loss_of_ones_own_sees_logits():
    seen = []

    def squared(student, teacher):
        seen.append((student.shape[-1], teacher.shape[-1]))
        return ops.mean(ops.square(student - teacher))

    qmodel, _ = new_model(loss=squared)
    assert training_loss(qmodel) > 0.0
    assert seen[-1] == (3, 3)


def test_switching_it_on_after_a_fit_takes_effect():
    float_model = dense_network()
    qmodel = keras_qat.quantize(float_model, "lsq", calibration_data=X)
    qmodel.compile("sgd", "sparse_categorical_crossentropy")
    on_labels = qmodel.fit(X, Y, batch_size=64, verbose=0).history["loss"][0]
    qmodel.distill_from()
    distilled = qmodel.fit(X, Y, batch_size=64, verbose=0).history["loss"][0]
    assert abs(distilled - on_labels) > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "cosine"}, "cosine"),
        ({"label_weight": -1.0}, "label_weight"),
        ({"teacher": keras.Sequential([keras.Input((5,)), layers.Dense(3)])}, "shape"),
    ],
    ids=["loss", "weight", "teacher"],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        new_model(**options)


@pytest.mark.parametrize(
    ("compiled", "distilled", "message"),
    [
        ({"metrics": ["accuracy"]}, {}, "has metrics of labels: compile it without metrics"),
        ({}, {"label_weight": 0.5}, "label_weight > 0: leave out label_weight"),
    ],
    ids=["metrics", "weight"],
)
def test_what_needs_labels_and_gets_none_is_said(compiled, distilled, message):
    float_model = dense_network()
    float_model.compile("sgd", "sparse_categorical_crossentropy", **compiled)
    with pytest.raises(ValueError, match="None"):
        float_model.fit(X, verbose=0)
    qmodel = keras_qat.quantize(float_model, calibration_data=X)
    qmodel.compile("sgd", "sparse_categorical_crossentropy", **compiled)
    qmodel.distill_from(**distilled)
    with pytest.raises(ValueError, match=f"Model 'dense' learns from a teacher.*{message}.*y=None"):
        qmodel.fit(X, verbose=0)
