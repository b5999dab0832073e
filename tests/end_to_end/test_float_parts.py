"""Layers left in float: explicit grids around them, exact integers before and behind."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.integer import load_graph, ops, run, save_graph
from keras_qat.quantizers import Dequantize, LoweringError
from tests.models import images, randomize
from tests.seams import op_differences
from tflite_export.proof.verification import FLOAT_PART_FLIPS

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers
CONFIG = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)


@keras.saving.register_keras_serializable(package="tests")
class Cubed(keras.layers.Layer):
    """`gain * x**3`, with a slot for what only training does."""

    def build(self, input_shape):
        self.gain = self.add_weight(name="gain", shape=(input_shape[-1],), initializer="ones")

    def call(self, x, training=True):
        return 1e6 * x if training else self.gain * keras.ops.power(x, 3)


def norm_network():
    """A LayerNormalization between two convolutions."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Conv2D(6, 3, activation="relu", name="second")(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(layers.Flatten(name="flat")(x)))


def attention_network():
    """A block of a transformer: the normalization and the attention are one part in float."""
    inputs = keras.Input((6, 8), name="steps")
    x = shortcut = layers.Dense(8, name="embed")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.Add(name="add")([x, shortcut])
    x = layers.Dense(16, activation="gelu", name="up")(x)
    return keras.Model(inputs, layers.Dense(3, name="down")(x))


def custom_network():
    """A layer of one's own behind a layer in float that would otherwise fuse."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = Cubed(name="cubed")(layers.ReLU(name="relu")(x))
    return keras.Model(inputs, layers.Conv2D(2, 3, name="last")(x))


def two_parts_network():
    """Two parts, the second one at the model's output and of two tensors."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    y = layers.LayerNormalization(name="norm")(x)
    z = layers.Conv2D(4, 1, name="second")(y)
    z = layers.Dot(axes=(-1, -1), name="dot")([layers.Flatten(name="a")(z), layers.Flatten()(y)])
    return keras.Model(inputs, [z, layers.Conv2D(2, 1, name="head")(y)])


def branching_network():
    """A tensor in float that layers in float and a quantized one read; a layer of two tensors."""
    inputs = keras.Input((6, 8), name="steps")
    x = layers.Dense(8, name="embed")(inputs)
    normed = layers.LayerNormalization(name="norm")(x)
    x, scores = layers.MultiHeadAttention(2, 4, name="attention")(
        normed, normed, return_attention_scores=True
    )
    x = layers.Concatenate(name="joined")([x, layers.Dense(8, name="direct")(normed)])
    return keras.Model(inputs, [layers.Dense(3, name="head")(x), scores])


def words_network():
    """Numbers of words, more than int8 has integers: an embedding reads them as they are."""
    inputs = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(1000, 8, name="embedding")(inputs)
    x = layers.Conv1D(8, 3, activation="relu", name="conv")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten(name="flat")(x)))


CASES = {
    "words": (words_network, "embedding", [("embedding", ("embedding",))]),
    "norm": (norm_network, "norm", [("norm", ("norm",))]),
    "attention": (
        attention_network,
        "norm|attention",
        [("attention", ("norm", "attention"))],
    ),
    "custom": (custom_network, "relu|cubed", [("cubed", ("relu", "cubed"))]),
    "two parts": (two_parts_network, "norm|dot", [("norm", ("norm",)), ("dot", ("dot",))]),
    "branching": (
        branching_network,
        "norm|attention",
        [
            ("norm", ("norm",)),
            ("attention", ("attention",)),
            ("attention/1", ("attention",)),
        ],
    ),
}


def samples(model, count=48):
    (tensor,) = model.inputs
    if tensor.dtype == "int32":
        rng = np.random.default_rng(0)
        return rng.integers(0, 1000, (count, *tensor.shape[1:]), dtype=np.int32)
    return images(count, tensor.shape[1:])


def quantized(make, pattern, config=CONFIG):
    model = randomize(make())
    x = samples(model)
    return keras_qat.quantize(model, config, overrides={pattern: None}, calibration_data=x), x


@pytest.fixture(scope="module", params=CASES)
def case(request):
    make, pattern, parts = CASES[request.param]
    keras.utils.set_random_seed(1)
    return *quantized(make, pattern), parts


def float_parts(graph):
    return [op for op in graph.ops if isinstance(op, ops.FloatPart)]


def test_the_parts_are_the_consecutive_layers_in_float(case):
    qmodel, _, parts = case
    assert [(op.output, op.layers) for op in float_parts(qmodel.to_integer())] == parts


def test_every_op_is_within_one_step_of_the_keras_model(case):
    qmodel, x, parts = case
    found = op_differences(qmodel.to_integer(), qmodel.layer_codes(x))
    assert {name for name, _ in parts} <= {each.name for each in found}
    assert all(each.largest <= 1 and each.flip_rate < 0.05 for each in found), found


def test_the_file_is_proven(case, tmp_path):
    """All integer ops exactly; here what float parts yield is exact, too."""
    qmodel, x, parts = case
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=x, verbose=False, min_argmax_agreement=0.0)
    assert [result.profile for result in report.verifications] == ["litert_ref", "xnnpack-x86"]
    assert report.mismatches == 0
    assert [(part.name, part.layers) for part in report.float_parts] == parts
    assert all(f"In float32: {', '.join(names)} (" in report.render() for _, names in parts)
    codes = [op.code for op in report.operators]
    assert codes.count("QUANTIZE") == len(parts)


def test_applications_run_the_file(case, tmp_path):
    qmodel, x, _ = case
    path = tmp_path / "net.tflite"
    tflite_export.export(qmodel, path, io_dtype="float32", samples=x, verbose=False)
    found = tflite_export.predict(path, x)
    codes = qmodel.layer_codes(x)
    for name in qmodel.to_integer().outputs:
        values = found[name] if isinstance(found, dict) else found
        grid = qmodel.to_integer().tensors[name].qparams
        steps = np.abs(values - grid.dequantize(codes[name])) / grid.scale
        assert np.mean(steps > 0.5) < 0.05


def test_a_saved_model_exports_the_same_file(case, tmp_path):
    qmodel, x, _ = case
    qmodel.save(tmp_path / "qat.keras")
    again = keras_qat.load_model(tmp_path / "qat.keras")
    for model, name in ((qmodel, "first"), (again, "second")):
        tflite_export.export(model, tmp_path / f"{name}.tflite", samples=x, verbose=False)
    files = [(tmp_path / f"{name}.tflite").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]


def test_a_saved_graph_runs_and_exports_alike(case, tmp_path):
    qmodel, x, _ = case
    graph = qmodel.to_integer()
    save_graph(graph, tmp_path / "graph.npz")
    again = load_graph(tmp_path / "graph.npz")
    (name,) = graph.inputs
    codes = graph.tensors[name].quantize(x)
    for expected, found in zip(run(graph, codes).values(), run(again, codes).values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert tflite_export.export(again, tmp_path / "net.tflite", verbose=False).mismatches == 0


def test_microcontrollers_are_refused_with_the_names_of_the_layers(case, tmp_path):
    qmodel, x, parts = case
    with pytest.raises(
        tflite_export.ExportError, match="compute in float32, and target 'tflm'"
    ) as error:
        tflite_export.export(qmodel, tmp_path / "net.tflite", target="tflm", samples=x)
    assert all(repr(layer) in str(error.value) for _, names in parts for layer in names)
    assert not list(tmp_path.iterdir())


def test_grids_stand_around_a_part_and_none_in_it():
    qmodel, _ = quantized(*CASES["attention"][:2])
    names = [layer.name for layer in qmodel.layers]
    start, end = names.index("embed_dequantize"), names.index("attention_quantizer")
    assert names[start + 1 : end] == ["norm", "attention"]
    assert isinstance(qmodel.get_layer("embed_dequantize"), Dequantize)
    assert qmodel.get_layer("attention_quantizer").grid.bits == 8


def test_the_sign_of_a_grid_behind_a_part_comes_from_the_data():
    grids = {}
    for name in ("softplus", "tanh"):
        inputs = keras.Input((8, 8, 3), name="image")
        x = layers.Activation(name, name="function")(layers.Conv2D(4, 3, name="conv")(inputs))
        model = keras.Model(inputs, layers.Conv2D(2, 3, name="last")(x))
        qmodel, _ = quantized(lambda model=model: model, "function")
        grids[name] = qmodel.get_layer("function_quantizer").grid.qmin
    assert grids == {"softplus": 0, "tanh": -128}


def test_a_narrow_grid_behind_a_part_is_clamped(tmp_path):
    config = keras_qat.LSQConfig(input_bits=5)
    qmodel, x = quantized(norm_network, "norm", config)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert "MAXIMUM" in [op.code for op in report.operators]
    assert report.mismatches == 0


def test_it_trains():
    qmodel, x = quantized(*CASES["attention"][:2])
    qmodel.compile("sgd", "mse")
    before = qmodel.get_layer("attention").get_weights()
    qmodel.fit(x, np.ones((len(x), 6, 3)), verbose=0)
    after = qmodel.get_layer("attention").get_weights()
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True))


def test_a_layer_in_float_keeps_its_activation_and_halves():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.SeparableConv2D(4, 3, activation="relu", name="separable")(x)
    x = layers.Average(name="mean")([x, x])
    model = keras.Model(inputs, layers.Conv2D(2, 3, name="last")(x))
    qmodel, _ = quantized(lambda: model, "separable|mean")
    assert isinstance(qmodel.get_layer("separable"), layers.SeparableConv2D)
    (part,) = float_parts(qmodel.to_integer())
    assert part.layers == ("separable", "mean")


def test_a_part_of_a_model_in_mixed_precision_is_in_float32(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        qmodel, x = quantized(*CASES["attention"][:2])
        assert qmodel.get_layer("attention").compute_dtype == "float32"
        report = tflite_export.export(
            qmodel, tmp_path / "net.tflite", samples=x, verbose=False, max_flip_rate=1.0
        )
    finally:
        keras.config.set_dtype_policy(before)
    assert report.mismatches == 0


def test_what_the_converter_does_not_know_is_an_error_that_names_the_layer():
    @keras.saving.register_keras_serializable(package="tests")
    class Quantile(keras.layers.Layer):
        def call(self, x):
            return keras.ops.erfinv(0.5 * keras.ops.tanh(x))

    inputs = keras.Input((8, 8, 3), name="image")
    x = Quantile(name="quantile")(layers.Conv2D(4, 3, name="conv")(inputs))
    model = keras.Model(inputs, layers.Conv2D(2, 3, name="last")(x))
    qmodel, _ = quantized(lambda: model, "quantile")
    with pytest.raises(LoweringError, match="'quantile'"):
        qmodel.to_integer()


def test_a_loop_in_float_is_an_error_that_names_the_layer(tmp_path):
    inputs = keras.Input((6, 4), name="steps")
    x = layers.LSTM(4, name="lstm")(layers.Dense(4, name="dense")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    qmodel, _ = quantized(lambda: model, "lstm")
    with pytest.raises(tflite_export.ExportError, match=r"'lstm'.*set unroll=True"):
        tflite_export.export(qmodel, tmp_path / "net.tflite", verbose=False)


def test_an_unrolled_loop_in_float_is_a_part(tmp_path):
    inputs = keras.Input((6, 4), name="steps")
    x = layers.GRU(4, unroll=True, name="gru")(layers.Dense(4, name="dense")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    qmodel, x = quantized(lambda: model, "gru")
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0
    assert [part.layers for part in report.float_parts] == [("gru",)]


def two_inputs_network(dtype="float32"):
    """An input that a layer in float reads, and one that a quantized layer does."""
    words = keras.Input((6,), dtype=dtype, name="words")
    steps = keras.Input((6, 8), name="steps")
    x = layers.Embedding(1000, 8, name="embedding")(words)
    x = layers.Add(name="add")([x, layers.Dense(8, name="dense")(steps)])
    return keras.Model([words, steps], layers.Dense(3, name="head")(x))


@pytest.mark.parametrize("io_dtype", ["int8", "float32"])
def test_an_input_in_float_stays_as_it_is(tmp_path, io_dtype):
    x = {"words": np.arange(120.0).reshape(20, 6), "steps": images(20, (6, 8))}
    overrides = {"words|embedding": None}
    model = two_inputs_network()
    qmodel = keras_qat.quantize(model, overrides=overrides, calibration_data=x)
    graph = qmodel.to_integer()
    assert {name: graph.tensors[name].dtype for name in graph.inputs} == {
        "words": "float32",
        "steps": "int8",
    }
    path = tmp_path / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=x, io_dtype=io_dtype, verbose=False)
    assert report.mismatches == 0
    found = tflite_export.predict(path, x)
    step = float(graph.tensors["head"].qparams.scale)
    assert np.mean(np.abs(found - qmodel.predict(x, verbose=0)) > 0.5 * step) < 0.01


def test_an_embedding_of_rounded_numbers_is_refused():
    words = keras.Input((6,), name="words")
    x = layers.Embedding(1000, 8, name="embedding")(words)
    model = keras.Model(words, [x, layers.Dense(3, name="head")(words)])
    data = np.arange(120.0).reshape(20, 6)
    with pytest.raises(keras_qat.UnsupportedLayerError, match=r"'embedding'.*dtype='int32'"):
        keras_qat.quantize(model, overrides={"embedding": None}, calibration_data=data)


def test_an_input_that_embeddings_alone_read_stays_as_it_is():
    x = {"words": np.arange(120.0).reshape(20, 6), "steps": images(20, (6, 8))}
    qmodel = keras_qat.quantize(two_inputs_network(), calibration_data=x)
    tensors = qmodel.to_integer().tensors
    assert (tensors["words"].dtype, tensors["steps"].dtype) == ("float32", "int8")


def test_a_raw_operation_in_float_is_a_part(tmp_path):
    inputs = keras.Input((6, 8), name="steps")
    x = layers.Dense(8, name="dense")(inputs)
    x = keras.ops.sin(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    name = x._keras_history.operation.name
    qmodel, x = quantized(lambda: model, name)
    qmodel.save(tmp_path / "qat.keras")
    for each in (qmodel, keras_qat.load_model(tmp_path / "qat.keras")):
        report = tflite_export.export(each, tmp_path / "net.tflite", samples=x, verbose=False)
        assert report.mismatches == 0
        assert [part.layers for part in report.float_parts] == [(name,)]


def test_the_share_that_may_flip_is_small():
    assert 0 < FLOAT_PART_FLIPS <= 1e-3


@pytest.mark.parametrize(
    "layer",
    [
        layers.GroupNormalization(2, name="norm"),
        layers.RMSNormalization(name="norm"),
        layers.UnitNormalization(name="norm"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_normalizations_of_single_examples_need_no_override(layer, tmp_path):
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    model = randomize(keras.Model(inputs, layers.Conv2D(5, 3, name="head")(layer(x))))
    x = samples(model)
    qmodel = keras_qat.quantize(model, CONFIG, calibration_data=x)
    assert [op.layers for op in float_parts(qmodel.to_integer())] == [("norm",)]
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0


def test_a_product_of_embeddings_needs_no_override(tmp_path):
    """A recommender: two embeddings, their inner product, and a function of it."""
    users, films = (keras.Input((1,), dtype="int32", name=name) for name in ("user", "film"))
    vectors = [layers.Flatten()(layers.Embedding(50, 8)(each)) for each in (users, films)]
    score = layers.Activation("sigmoid")(layers.Dot(axes=1, name="dot")(vectors))
    rng = np.random.default_rng(0)
    x = {name: rng.integers(0, 50, (64, 1), dtype=np.int32) for name in ("user", "film")}
    model = randomize(keras.Model([users, films], score))
    qmodel = keras_qat.quantize(model, CONFIG, calibration_data=x)
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0
