"""Layers without an integer form: they train with quantized weights, whose integers ship."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import keras_qat
import tflite_export
from keras_qat.integer import load_graph, ops, run, save_graph
from keras_qat.quantized_layers import WeightOnlyWrapper, quantized_kernels
from keras_qat.quantizers import LoweringError
from keras_qat.quantizers.initial_scale import least_error_weight_scale
from keras_qat.training.code_regularization import code_regularization
from tests.models import randomize
from tests.seams import op_differences
from tests.tflite_export.float_networks import times_one
from tflite_export.file.writer import read_model, write_model

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers
W4 = keras_qat.LSQConfig(weight_bits=4)
KERNELS = [
    "embedding",
    *(f"attention/{part}" for part in ("query", "key", "value", "output")),
    "up",
]


def transformer_block():
    """An embedding, attention between normalizations, an expansion, a head."""
    words = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(50, 8, name="embedding")(words)
    y = layers.LayerNormalization(name="norm")(x)
    y = layers.MultiHeadAttention(2, 4, name="attention")(y, y)
    x = layers.LayerNormalization(name="second_norm")(layers.Add(name="add")([x, y]))
    x = layers.EinsumDense("abc,cd->abd", (6, 12), bias_axes="d", activation="gelu", name="up")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return randomize(keras.Model(words, layers.Dense(3, name="head")(x)))


def sentences(count=48):
    return np.random.default_rng(0).integers(0, 50, (count, 6), dtype=np.int32)


def quantized(config=W4, **options):
    keras.utils.set_random_seed(1)
    return keras_qat.quantize(transformer_block(), config, calibration_data=sentences(), **options)


def kernels_of(qmodel):
    """Every kernel of a layer in float, by its name."""
    in_float = [layer for layer in qmodel.layers if isinstance(layer, WeightOnlyWrapper)]
    return {kernel.name: kernel for layer in in_float for kernel in layer.kernels}


def weights_of(graph):
    parts = [op for op in graph.ops if isinstance(op, ops.FloatPart)]
    return {weight.name: weight for part in parts for weight in part.weights}


def as_stored(name, values, shape):
    """A kernel as the file has it: rows of a table, or the channels first."""
    return values if name == "embedding" else np.moveaxis(values, -1, 0).reshape(shape)


@pytest.fixture(scope="module")
def qmodel():
    return quantized()


@pytest.fixture(scope="module")
def exported(qmodel, tmp_path_factory):
    path = tmp_path_factory.mktemp("block") / "net.tflite"
    report = tflite_export.export(qmodel, path, samples=sentences(), verbose=False)
    return path, report


def test_every_kernel_has_a_quantizer_of_the_config(qmodel):
    bits = {name: kernel.weight_quantizer.bits for name, kernel in kernels_of(qmodel).items()}
    assert list(bits) == KERNELS
    assert bits.pop("embedding") == 8  # the first weight layer
    assert set(bits.values()) == {4}
    found = {id(quantizer) for quantizer in qmodel.quantizers}
    assert all(id(each.weight_quantizer) in found for each in kernels_of(qmodel).values())


def test_scales_start_from_the_least_squared_error(qmodel):
    for kernel in kernels_of(qmodel).values():
        latent = keras.ops.convert_to_numpy(kernel.channels_last_kernel())
        expected = least_error_weight_scale(latent, kernel.weight_quantizer.grid, True)
        np.testing.assert_array_equal(kernel.weight_quantizer.scale, expected)


def test_the_file_is_proven(qmodel, exported):
    _, report = exported
    assert [result.profile for result in report.verifications] == ["litert_ref", "xnnpack-x86"]
    assert report.mismatches == 0
    differences = op_differences(qmodel.to_integer(), qmodel.layer_codes(sentences()))
    assert all(each.largest <= 1 and each.flip_rate < 0.01 for each in differences), differences


def test_the_report_names_the_weights_and_their_bytes(exported):
    _, report = exported
    assert [part.layers for part in report.float_parts] == [
        ("embedding",),
        ("norm", "attention"),
        ("second_norm", "up"),
    ]
    weights = [weight for part in report.float_parts for weight in part.weights]
    assert [(each.name, each.bits, each.stored_bytes) for each in weights] == [
        ("embedding", 8, 400),
        *((name, 4, 64) for name in KERNELS[1:5]),
        ("up", 4, 96),
    ]
    assert "Quantized weights: embedding 50x8, 8 bits, 400 bytes." in report.render()


def test_the_file_holds_the_learned_integers(qmodel, exported):
    path, _ = exported
    file = read_model(path.read_bytes())
    for name, kernel in kernels_of(qmodel).items():
        ((_, stored),) = [x for x in file.tensors.items() if x[0].endswith(f"/weights/{name}")]
        latent = kernel.channels_last_kernel()
        assert stored.dtype == "int8"
        codes = keras.ops.convert_to_numpy(kernel.weight_quantizer.codes(latent))
        np.testing.assert_array_equal(stored.data, as_stored(name, codes, stored.shape))
        np.testing.assert_array_equal(stored.scale, kernel.weight_quantizer.scale)


@pytest.mark.parametrize("resolver", [OpResolverType.BUILTIN_REF, OpResolverType.AUTO])
def test_a_runtime_multiplies_with_the_weights_of_the_forward_pass(qmodel, exported, resolver):
    """Element by element, without tolerance: `code * scale` of what Keras computes with."""
    path, _ = exported
    file, x = read_model(path.read_bytes()), sentences(1)
    expected = {
        name: keras.ops.convert_to_numpy(each.weight_quantizer(each.channels_last_kernel()))
        for name, each in kernels_of(qmodel).items()
    }
    written = {op.outputs[0]: op for op in file.operators}
    tensors = {}
    for op in file.operators:
        rows = written.get(op.inputs[0]) if op.code == "DEQUANTIZE" else None
        source = rows.inputs[0] if rows is not None and rows.code == "GATHER" else op.inputs[0]
        name = source.partition("/float/weights/")[2]
        if op.code == "DEQUANTIZE" and name:
            found = expected[name][x] if name == "embedding" else expected[name]
            shape = file.tensors[op.outputs[0]].shape
            tensors[op.outputs[0]] = as_stored(name, found, shape)
    assert len(tensors) == len(KERNELS)
    opened = times_one(file, tensors)
    interpreter = Interpreter(
        model_content=write_model(opened), experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    outputs = interpreter.get_output_details()
    for values, detail in zip(tensors.values(), outputs, strict=True):
        np.testing.assert_array_equal(interpreter.get_tensor(detail["index"]), values)


def test_a_table_is_read_as_int8(exported):
    path, report = exported
    file = read_model(path.read_bytes())
    (gather,) = [op for op in file.operators if op.code == "GATHER"]
    assert file.tensors[gather.inputs[0]].dtype == file.tensors[gather.outputs[0]].dtype == "int8"
    assert (1, 50, 8) not in [op.shape for op in report.operators]


def test_a_saved_model_exports_the_same_file(qmodel, exported, tmp_path):
    path, _ = exported
    qmodel.save(tmp_path / "qat.keras")
    again = keras_qat.load_model(tmp_path / "qat.keras")
    x = sentences()
    np.testing.assert_array_equal(again.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    tflite_export.export(again, tmp_path / "net.tflite", samples=x, verbose=False)
    assert (tmp_path / "net.tflite").read_bytes() == path.read_bytes()


def test_a_saved_graph_runs_and_exports_alike(qmodel, tmp_path):
    graph = qmodel.to_integer()
    save_graph(graph, tmp_path / "graph.npz")
    again = load_graph(tmp_path / "graph.npz")
    for name, weight in weights_of(graph).items():
        found = weights_of(again)[name]
        assert (found.bits, found.array.qparams) == (weight.bits, weight.array.qparams)
        np.testing.assert_array_equal(found.array.values, weight.array.values)
    x = sentences()
    np.testing.assert_array_equal(run(again, x)["head"], run(graph, x)["head"])
    assert tflite_export.export(again, tmp_path / "net.tflite", verbose=False).mismatches == 0


def test_microcontrollers_are_refused_with_the_names_of_the_layers(qmodel, tmp_path):
    with pytest.raises(tflite_export.ExportError, match=r"'up' compute in float32, and target"):
        tflite_export.export(
            qmodel, tmp_path / "net.tflite", target="tflm", samples=sentences(), verbose=False
        )


def test_one_step_moves_latent_weights_and_scales():
    qmodel = quantized()
    kernels = kernels_of(qmodel)

    def state(kernel):
        found = kernel.channels_last_kernel(), kernel.weight_quantizer.scale
        return [keras.ops.convert_to_numpy(each).copy() for each in found]

    before = {name: state(kernel) for name, kernel in kernels.items()}
    qmodel.compile(keras.optimizers.Adam(0.01), "mse")
    qmodel.fit(sentences(), np.ones((48, 3)), batch_size=48, verbose=0)
    for name, kernel in kernels.items():
        moved = [np.any(a != b) for a, b in zip(before[name], state(kernel), strict=True)]
        assert moved == [True, True], name


def test_a_trained_model_is_proven(tmp_path):
    qmodel = quantized(keras_qat.LSQConfig(weight_bits=2, per_channel=False))
    qmodel.compile(keras.optimizers.Adam(0.01), "mse")
    qmodel.fit(sentences(), np.ones((48, 3)), epochs=3, verbose=0)
    report = tflite_export.export(
        qmodel, tmp_path / "net.tflite", samples=sentences(), verbose=False
    )
    assert report.mismatches == 0
    assert weights_of(qmodel.to_integer())["up"].array.qparams.scale.shape == ()


def test_learned_widths_of_the_kernels_meet_their_targets(tmp_path):
    qmodel = quantized(keras_qat.GDNSQConfig(weight_bits=4))
    assert set(KERNELS) <= {width.name for width in qmodel.learned_widths}
    with pytest.raises(LoweringError, match="bits"):
        qmodel.to_integer()
    for width in qmodel.learned_widths:
        width.narrow()
    assert qmodel.meets_targets()
    assert weights_of(qmodel.planned_integer())["attention/query"].bits == 4
    report = tflite_export.export(
        qmodel, tmp_path / "net.tflite", samples=sentences(), verbose=False
    )
    assert report.mismatches == 0


def test_the_penalty_and_replacement_see_the_kernels():
    qmodel = quantized(keras_qat.PEGEConfig(weight_bits=4))
    assert {f"{name}/weights" for name in KERNELS} <= set(qmodel.replaced_quantizers)
    qmodel = quantized(keras_qat.LSQConfig(weight_bits=4, code_regularization=1.0))
    qmodel.compile("adam", "mse")
    kernels = [kernel for layer in qmodel.layers for kernel in quantized_kernels(layer)]
    assert len(kernels) == len(KERNELS) + 1  # the Dense at the end
    pulls = [float(code_regularization(kernel)) for kernel in kernels]
    assert min(pulls) > 0.0
    outputs = qmodel(sentences(2), training=True)
    loss = float(qmodel.compute_loss(None, outputs, outputs, training=True))
    assert loss == pytest.approx(sum(pulls), rel=1e-6)  # float32 sums of seven numbers


def test_an_override_leaves_the_weights_in_float(tmp_path):
    qmodel = quantized(overrides={"attention": None, "up": keras_qat.LSQConfig(weight_bits=3)})
    assert isinstance(qmodel.get_layer("attention"), layers.MultiHeadAttention)
    weights = weights_of(qmodel.to_integer())
    assert {name: weight.bits for name, weight in weights.items()} == {"embedding": 8, "up": 3}
    report = tflite_export.export(
        qmodel, tmp_path / "net.tflite", samples=sentences(), verbose=False
    )
    assert report.mismatches == 0


def test_a_frozen_layer_keeps_its_function():
    model = transformer_block()
    model.get_layer("attention").trainable = False
    qmodel = keras_qat.quantize(model, W4, calibration_data=sentences())
    frozen = list(quantized_kernels(qmodel.get_layer("attention")))
    assert not any(kernel.weight_quantizer.trainable_weights for kernel in frozen)
    assert not qmodel.get_layer("attention").trainable_weights


def test_masks_reach_the_attention(tmp_path):
    words = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(50, 8, mask_zero=True, name="embedding")(words)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x, use_causal_mask=True)
    model = keras.Model(words, layers.Dense(3, name="head")(x))
    x = sentences()
    x[:, 4:] = 0
    qmodel = keras_qat.quantize(model, calibration_data=x)
    changed = np.where(x == 0, 0, x)
    np.testing.assert_array_equal(qmodel(changed)[:, :4], qmodel(x)[:, :4])
    difference = np.abs(qmodel.predict(x, verbose=0) - model.predict(x, verbose=0))
    assert np.max(difference) < 0.1 * np.max(np.abs(model.predict(x, verbose=0)))
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0


def test_both_tensors_of_an_attention_and_several_calls(tmp_path):
    """What the scores do not need is not in the file a second time."""
    steps = keras.Input((6, 8), name="steps")
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    x = layers.Dense(8, name="first")(steps)
    y, scores = attention(x, x, return_attention_scores=True)
    y = layers.Dense(8, name="between")(y)
    y = attention(query=y, value=y, key=x)
    model = keras.Model(steps, [layers.Dense(3, name="head")(y), scores])
    x = np.random.default_rng(0).normal(size=(48, 6, 8)).astype(np.float32)
    qmodel = keras_qat.quantize(model, W4, calibration_data=x)
    report = tflite_export.export(
        qmodel, tmp_path / "net.tflite", samples=x, verbose=False, min_argmax_agreement=0.0
    )
    assert report.mismatches == 0
    names = {part.name: [w.name for w in part.weights] for part in report.float_parts}
    assert names["attention"] == names["attention_1"] == KERNELS[1:5]
    assert names["attention/1"] == KERNELS[1:3]


@keras.saving.register_keras_serializable(package="tests")
class Block(keras.layers.Layer):
    """A transformer's block as people write it: a layer of their own, made of layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="norm")
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")
        self.up = layers.Dense(16, activation="gelu", name="up")
        self.down = layers.Dense(8, name="down")

    def call(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y)
        return x + self.down(self.up(x))


def test_a_block_of_ones_own_is_taken_apart(tmp_path):
    steps = keras.Input((6, 8), name="steps")
    x = Block(name="block")(layers.Dense(8, name="first")(steps))
    model = keras.Model(steps, layers.Dense(3, name="head")(x))
    x = np.random.default_rng(0).normal(size=(48, 6, 8)).astype(np.float32)
    qmodel = keras_qat.quantize(model, W4, calibration_data=x)
    assert set(KERNELS[1:5]) == set(kernels_of(qmodel))
    report = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0
    assert [part.layers for part in report.float_parts] == [("norm", "attention")]


def test_a_model_in_mixed_precision_multiplies_in_float32(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        qmodel = quantized()
        (query, *_) = qmodel.get_layer("attention").kernels
        assert query.place.holder.compute_dtype == "float32"
        report = tflite_export.export(
            qmodel, tmp_path / "net.tflite", samples=sentences(), verbose=False, max_flip_rate=1.0
        )
    finally:
        keras.config.set_dtype_policy(before)
    assert report.mismatches == 0


def test_heads_that_share_keys_and_values(tmp_path):
    steps = keras.Input((6, 8), name="steps")
    x = layers.Dense(8, name="first")(steps)
    x = layers.GroupQueryAttention(4, 4, 2, name="attention")(x, x)
    model = keras.Model(steps, layers.Dense(3, name="head")(x))
    x = np.random.default_rng(0).normal(size=(48, 6, 8)).astype(np.float32)
    qmodel = keras_qat.quantize(model, W4, calibration_data=x)
    qmodel.save(tmp_path / "qat.keras")
    again = keras_qat.load_model(tmp_path / "qat.keras")
    shapes = {kernel.name: kernel.channels_last_shape() for kernel in kernels_of(again).values()}
    assert list(shapes.values()) == [(8, 16), (8, 8), (8, 8), (4, 4, 8)]
    report = tflite_export.export(again, tmp_path / "net.tflite", samples=x, verbose=False)
    assert report.mismatches == 0


def test_layer_normalization_alone_leaves_nothing_to_quantize():
    inputs = keras.Input((8,), name="steps")
    model = keras.Model(inputs, layers.LayerNormalization(name="norm")(inputs))
    with pytest.raises(ValueError, match="Nothing of the model"):
        keras_qat.quantize(model, calibration_data=np.ones((4, 8)))
