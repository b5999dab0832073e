"""`QuantizedModel`: trains, saves, loads and states its integers like any Keras model."""

import dataclasses
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.conversion import target_inference
from keras_qat.errors import LoweringError
from keras_qat.integer import QuantParams
from keras_qat.integer.ops import LinearOp, QuantizedArray
from tests.models import images, residual_network

pytestmark = pytest.mark.slow_beyond(1)

layers = keras.layers
X = images(64)
Y = np.arange(64) % 5


def new_model(float_model=None):
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)
    qmodel = keras_qat.quantize(float_model or residual_network(), config, calibration_data=X)
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    return qmodel


def without_dropout():
    inputs = keras.Input(X.shape[1:])
    x = layers.Conv2D(6, 3, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="head")(x))


@pytest.fixture(scope="module")
def trained():
    """A model after one epoch. Tests must not change it."""
    qmodel = new_model()
    qmodel.fit(X, Y, batch_size=16, verbose=0)
    return qmodel


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    trained.save(path)
    return path


def plain(value):
    """Anything an integer op holds, in a form that == compares."""
    if isinstance(value, QuantizedArray):
        return value.values.tolist(), value.qparams
    return value.tolist() if isinstance(value, np.ndarray) else value


def assert_same_integers(actual, expected):
    assert len(actual.ops) == len(expected.ops)
    for now, then in zip(actual.ops, expected.ops, strict=True):
        assert type(now) is type(then)
        for field in dataclasses.fields(then):
            values = [plain(getattr(op, field.name)) for op in (now, then)]
            assert values[0] == values[1], (then.output, field.name)
    assert actual.tensors == expected.tensors
    assert (actual.inputs, actual.outputs) == (expected.inputs, expected.outputs)


def assert_same(actual, expected):
    np.testing.assert_array_equal(actual.predict(X, verbose=0), expected.predict(X, verbose=0))
    assert_same_integers(actual.to_integer(), expected.to_integer())


def linked(model):
    return [layer.name for layer in model.layers if getattr(layer, "connections", None)]


def test_the_comparison_of_integers_sees_a_bias(trained):
    graph = trained.to_integer()
    ops = [
        dataclasses.replace(op, bias=op.bias + 1e-6) if isinstance(op, LinearOp) else op
        for op in graph.ops
    ]
    with pytest.raises(AssertionError):
        assert_same_integers(dataclasses.replace(graph, ops=tuple(ops)), graph)


@pytest.mark.parametrize("load", [keras.models.load_model, keras_qat.load_model])
def test_a_saved_model_loads_bit_equal_with_its_neighbours(trained, saved, load):
    loaded = load(saved)
    assert type(loaded) is keras_qat.QuantizedModel
    assert (
        linked(loaded)
        == linked(trained)
        == [
            "stem",
            "stem_bn",
            "conv",
            "conv_bn",
            "add",
            "separable_depthwise",
            "separable",
            "separable_bn",
            "pool",
            "head",
            "head_softmax_quantizer",
        ]
    )
    assert_same(loaded, trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import keras, keras_qat; load = keras.models.load_model",
        "import keras_qat; load = keras_qat.load_model",
    ],
    ids=["keras_first", "keras_qat_alone"],
)
def test_a_fresh_process_loads_the_same(trained, saved, imports, tmp_path):
    from keras_qat.integer.io import load_graph

    np.save(tmp_path / "x.npy", X)
    script = f"""
        {imports}
        import numpy as np
        from keras_qat.integer.io import save_graph
        model = load({str(saved)!r})
        np.save("outputs.npy", model.predict(np.load("x.npy"), verbose=0))
        save_graph(model.to_integer(), "graph.npz")
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=tmp_path, timeout=120
    )
    np.testing.assert_array_equal(np.load(tmp_path / "outputs.npy"), trained.predict(X, verbose=0))
    assert_same_integers(load_graph(tmp_path / "graph.npz"), trained.to_integer())


def test_weights_alone_load_into_a_model_of_the_same_structure(trained, tmp_path):
    trained.save_weights(tmp_path / "model.weights.h5")
    fresh = keras.models.clone_model(trained)
    assert np.any(fresh.predict(X, verbose=0) != trained.predict(X, verbose=0))
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert_same(fresh, trained)


@pytest.mark.parametrize(
    "copy", [keras.models.clone_model, lambda m: m.from_config(m.get_config())]
)
def test_clones_take_the_weights(trained, copy):
    clone = copy(trained)
    assert type(clone) is keras_qat.QuantizedModel
    assert not {id(v) for v in clone.variables} & {id(v) for v in trained.variables}
    clone.set_weights(trained.get_weights())
    assert linked(clone) == linked(trained)
    assert_same(clone, trained)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_the_old_format_of_whole_models_is_refused(trained, name, tmp_path):
    with pytest.raises(ValueError, match=rf"saved as HDF5.*{name}.*'model.keras', or the weights"):
        trained.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    trained.save(tmp_path / "model.keras")  # both ways out
    trained.save_weights(tmp_path / "model.weights.h5")
    loaded = keras_qat.load_model(tmp_path / "model.keras")
    fresh = keras.models.clone_model(trained)
    fresh.load_weights(tmp_path / "model.weights.h5")
    for model in (loaded, fresh):
        found, expected = (each.predict(X, verbose=0) for each in (model, trained))
        np.testing.assert_array_equal(found, expected)


def test_training_goes_on_after_loading_as_if_nothing_had_happened(tmp_path):
    """Bit-equal: weights, statistics, scales and the optimizer are in the file.

    Only the random numbers of a Dropout start anew, as they do in any Keras model.
    """
    uninterrupted = new_model(without_dropout())
    uninterrupted.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    uninterrupted.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for model in (uninterrupted, loaded):
        model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    for now, then in zip(loaded.variables, uninterrupted.variables, strict=True):
        np.testing.assert_array_equal(now, then, err_msg=then.path)
    assert int(loaded.optimizer.iterations) == 8
    assert_same(loaded, uninterrupted)


def test_everything_trains(trained):
    untrained = new_model()
    names = [variable.path for variable in untrained.trainable_variables]
    assert sum(name.endswith("scale_ratio") for name in names) == 12
    for name, before, after in zip(
        names, untrained.trainable_variables, trained.trainable_variables, strict=True
    ):
        assert np.any(before.numpy() != after.numpy()), name


def losses(**how):
    """Of three epochs of a small network, from the same seeds."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, activation="relu")(inputs)
    x = layers.GlobalAveragePooling2D()(layers.AveragePooling2D(2)(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    samples = images(32, (6, 6, 2))
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=samples)
    qmodel.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", **how)
    fitted = qmodel.fit(samples, np.arange(32) % 3, epochs=3, shuffle=False, verbose=0)
    return fitted.history["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_every_way_to_run_trains_the_same(how):
    expected = losses(jit_compile=False)
    assert expected[2] < expected[1] < expected[0]
    # XLA and eager kernels sum in another order, which may move a value over a tie.
    np.testing.assert_allclose(losses(**how), expected, rtol=1e-3)


@pytest.mark.slow
def test_the_first_batch_is_traced_and_no_other():
    """A Python value that changes with the step would trace every batch anew."""
    traces = []

    class Counting(keras_qat.QuantizedModel):
        def call(self, inputs, training=None, mask=None):
            traces.append(training)
            return super().call(inputs, training=training, mask=mask)

    qmodel = new_model()
    counting = Counting(qmodel.input, qmodel.output)
    counting.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    traces.clear()
    counting.fit(X[:16], Y[:16], batch_size=16, verbose=0)
    assert traces == [True]  # once: the optimizer's variables are there before
    counting.fit(X, Y, batch_size=16, epochs=3, verbose=0)
    assert len(traces) == 1


@pytest.mark.slow
def test_mixed_float16_trains_and_its_scales_stay_float32():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = residual_network()
    finally:
        keras.config.set_dtype_policy(policy)
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=X)
    assert qmodel.get_layer("stem").layer.compute_dtype == "float16"
    before = qmodel.get_layer("stem").layer.kernel.numpy()
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    (loss,) = qmodel.fit(X, Y, verbose=0).history["loss"]
    assert np.isfinite(loss)
    assert np.any(qmodel.get_layer("stem").layer.kernel.numpy() != before)
    assert {variable.dtype for variable in qmodel.weights} == {"float32"}
    assert qmodel.to_integer().ops


@pytest.mark.slow
def test_frozen_layers_stay_frozen(tmp_path):
    model = residual_network()
    for layer in model.layers[:3]:
        layer.trainable = False
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=X)
    qmodel.save(tmp_path / "model.keras")
    for candidate in (qmodel, keras.models.load_model(tmp_path / "model.keras")):
        frozen = [candidate.get_layer(name) for name in ("stem", "stem_bn")]
        before = [weight for layer in frozen for weight in layer.get_weights()]
        head = candidate.get_layer("head").get_weights()
        candidate.compile("adam", "sparse_categorical_crossentropy")
        candidate.fit(X, Y, verbose=0)
        after = [weight for layer in frozen for weight in layer.get_weights()]
        for now, then in zip(after, before, strict=True):
            np.testing.assert_array_equal(now, then)
        assert np.any(candidate.get_layer("head").get_weights()[0] != head[0])


def test_layer_codes_are_int8_by_the_names_of_the_integer_graph(trained):
    codes, graph = trained.layer_codes(X), trained.to_integer()
    assert set(codes) == {
        *("image", "stem_relu", "conv_bn", "add_relu", "separable_depthwise"),
        *("separable_relu6", "pool", "head_linear", "head"),
    }
    for name, values in codes.items():
        grid: QuantParams = graph.tensors[name].qparams
        assert values.dtype == np.int8
        assert values.shape == (64, *graph.tensors[name].shape[1:])
        assert values.min() >= grid.qmin
        assert values.max() <= grid.qmax
    outputs = graph.tensors["head"].qparams.dequantize(codes["head"])
    np.testing.assert_array_equal(outputs, trained.predict(X, verbose=0))
    np.testing.assert_array_equal(codes["image"], graph.tensors["image"].qparams.quantize(X))


@pytest.mark.slow
def test_layer_codes_follow_training():
    qmodel = new_model()
    before = qmodel.layer_codes(X)
    qmodel.fit(X, Y, verbose=0)
    after = qmodel.layer_codes(X)
    assert any(np.any(after[name] != before[name]) for name in before)
    outputs = qmodel.to_integer().tensors["head"].qparams.dequantize(after["head"])
    np.testing.assert_array_equal(outputs, qmodel.predict(X, verbose=0))


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_layer_codes_of_a_deep_model_are_those_of_its_compiled_form(trained, target, monkeypatch):
    with trained.computing_as(target):
        expected = trained.layer_codes(X)
        monkeypatch.setattr(target_inference, "_DEEP", 1)
        monkeypatch.setattr(keras.Model, "predict", None)
        for name, values in trained.layer_codes(X, batch_size=24).items():
            np.testing.assert_array_equal(values, expected[name])


def test_layer_codes_take_batches_of_any_size(trained):
    expected = trained.layer_codes(X)
    for name, values in trained.layer_codes(X, batch_size=7).items():
        np.testing.assert_array_equal(values, expected[name])


def test_several_inputs_and_outputs_by_name():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    total = layers.Add(name="total")([left, layers.Dense(4, name="dense")(right)])
    heads = {"total": total, "head": layers.Dense(2, name="head")(total)}
    model = keras.Model({"right": right, "left": left}, heads)
    x = {"left": images(8, (4,)), "right": 5.0 * images(8, (4,), seed=1)}
    qmodel = keras_qat.quantize(model, calibration_data=x)
    outputs = qmodel.predict(x, verbose=0)
    codes, graph = qmodel.layer_codes(x), qmodel.to_integer()
    assert set(graph.inputs) == {"left", "right"}
    assert set(graph.outputs) == {"total", "head"}
    for name, values in outputs.items():
        np.testing.assert_array_equal(graph.tensors[name].qparams.dequantize(codes[name]), values)
    assert float(graph.tensors["right"].qparams.scale) > float(graph.tensors["left"].qparams.scale)


def test_quantizers_lists_each_one_once(trained):
    names = [quantizer.name for quantizer in trained.quantizers]
    assert names.count("weight_quantizer") == 5
    assert len(names) == len({id(q) for q in trained.quantizers}) == 5 + 8
    assert names[0] == "image_quantizer"


def test_the_integer_network_aimed_at_is_known_before_training():
    config = keras_qat.GDNSQConfig(weight_bits=3, activation_bits=4)
    model = keras_qat.quantize(residual_network(), config, calibration_data=images(64))
    before = [np.array(value) for value in model.get_weights()]
    with pytest.raises(LoweringError, match="have learned"):
        model.to_integer()
    graph = model.planned_integer()
    bits = [op.weight_bits for op in graph.ops if isinstance(op, LinearOp)]
    assert set(bits) <= {3, 8}
    assert 3 in bits
    for value, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, kept)


def test_a_network_of_fixed_widths_aims_at_what_it_is(trained):
    assert_same_integers(trained.planned_integer(), trained.to_integer())
