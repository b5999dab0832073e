"""`activation_bits=None`: weights lie on their grids, and everything computes in float32."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import keras_qat
import tflite_export
from keras_qat.callbacks import CapacityMonitor, GDNSQSchedule, PEGESchedule
from keras_qat.integer import load_graph, ops, save_graph
from keras_qat.quantized_layers import quantized_kernels
from tests.models import dense_network, images, points, randomize, residual_network
from tests.tflite_export.float_networks import times_one
from tflite_export.file.writer import read_model, write_model

layers = keras.layers
W1A32 = keras_qat.LSQConfig(weight_bits=1, activation_bits=None)
CLOSE = 2.0**-16
"""Of the largest output: float32 sums of up to 100 products in another order, in a few layers,
differ by about 2**-20 of their size (`tflite_export.proof.float_difference`)."""


def network():
    keras.utils.set_random_seed(0)
    return residual_network()


def quantized(config=W1A32):
    return keras_qat.quantize(network(), config, calibration_data=images(32))


def trained(qmodel, **options):
    qmodel.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return qmodel.fit(images(32), np.arange(32) % 5, batch_size=8, verbose=0, **options)


def kernels_of(qmodel):
    """What Keras multiplies with, by the name of its layer: fake-quantized, channels last."""
    found = [kernel for layer in qmodel.layers for kernel in quantized_kernels(layer)]
    return {
        each.name: keras.ops.convert_to_numpy(each.weight_quantizer(each.channels_last_kernel()))
        for each in found
    }


def constants_of(file):
    """Every quantized kernel of a file, by the name of its layer."""
    named = {name.partition("/float/weights/")[2]: each for name, each in file.tensors.items()}
    return {name: each for name, each in named.items() if name}


def dequantized(stored):
    """`scale * code` in float32, as DEQUANTIZE computes it."""
    sizes = [1] * stored.data.ndim
    sizes[stored.axis] = -1
    return stored.data.astype(np.float32) * stored.scale.reshape(sizes)


def as_stored(kernel, stored):
    """A kernel, channels last, in the layout that its operator reads: mostly channels first."""
    moved = kernel if stored.axis else np.moveaxis(kernel, -1, 0)
    return moved.reshape(stored.shape)


def exported(qmodel, path, x=None, **options):
    x = images(32) if x is None else x
    report = tflite_export.export(qmodel, path, samples=x, verbose=False, **options)
    return report, read_model(path.read_bytes())


def nearly(actual, expected):
    """Equal up to the order of float32 sums."""
    return np.max(np.abs(actual - expected)) <= CLOSE * np.max(np.abs(expected))


@pytest.fixture(scope="module")
def qmodel():
    qmodel = quantized()
    trained(qmodel)
    return qmodel


@pytest.fixture(scope="module")
def written(qmodel, tmp_path_factory):
    path = tmp_path_factory.mktemp("w1a32") / "net.tflite"
    return (path, *exported(qmodel, path))


def test_weights_alone_are_on_grids(qmodel):
    bits = {name: each.bits for name, each in qmodel.named_quantizers.items()}
    assert bits == {
        "stem/weights": 8,  # the first and the last weight layer
        "conv/weights": 1,
        "separable_depthwise/weights": 1,
        "separable/weights": 1,
        "head/weights": 8,
    }
    assert qmodel.plan.grids == ()
    assert qmodel.plan.input_bits == {"image": None}
    assert not qmodel.plan.deploys
    ends = keras_qat.LSQConfig(weight_bits=1, activation_bits=None, first_and_last_bits=1)
    assert {each.bits for each in quantized(ends).quantizers} == {1}


def test_input_and_add_bits_have_no_effect():
    other = keras_qat.LSQConfig(weight_bits=1, activation_bits=None, input_bits=2, add_bits=2)
    x = images(8)
    np.testing.assert_array_equal(quantized(other)(x), quantized()(x))


def test_the_model_computes_with_quantized_kernels_and_nothing_else_is_rounded(qmodel):
    """The float model with the fake-quantized kernels yields the same, up to the order of sums."""
    kernels = kernels_of(qmodel)
    x = images(8)
    float_model = network()
    for layer in float_model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(qmodel.get_layer(layer.name).get_weights())
    inner = {name: qmodel.get_layer(name).layer for name in kernels}
    float_model.get_layer("stem").set_weights([kernels["stem"], inner["stem"].bias])
    float_model.get_layer("conv").set_weights([kernels["conv"]])
    depthwise = kernels["separable_depthwise"][..., None]
    float_model.get_layer("separable").set_weights(
        [depthwise, kernels["separable"], inner["separable"].bias]
    )
    float_model.get_layer("head").set_weights([kernels["head"], inner["head"].bias])
    assert nearly(qmodel.predict(x, verbose=0), float_model.predict(x, verbose=0))


def test_the_plan_says_what_is_in_float(qmodel):
    plan = keras_qat.plan(network(), W1A32, calibration_data=images(32))
    assert plan == qmodel.plan
    text = str(plan)
    assert "LiteRT alone" not in text.partition("All layers compute in float32")[0]
    assert text.endswith("All layers compute in float32, for LiteRT alone.")
    assert "the runtimes' own" not in text  # no grid of a softmax
    conv = next(layer for layer in plan.layers if layer.name == "conv")
    assert (conv.weight_bits, conv.float_bytes, conv.litert_bytes) == (1, 4 * 576, 576)
    assert plan.total("tflm_bytes") == 0


def test_weights_in_the_file_are_those_of_the_forward_pass(qmodel, written):
    """The law: bit for bit, in every layer."""
    _, _, file = written
    stored, kernels = constants_of(file), kernels_of(qmodel)
    assert stored.keys() == kernels.keys()
    for name, kernel in kernels.items():
        assert stored[name].dtype == "int8"
        expected = as_stored(kernel, stored[name])
        np.testing.assert_array_equal(dequantized(stored[name]), expected)
    assert set(np.unique(stored["conv"].data)) == {-1, 1}


@pytest.mark.parametrize("resolver", [OpResolverType.BUILTIN_REF, OpResolverType.AUTO])
def test_a_runtime_multiplies_with_them(qmodel, written, resolver):
    _, _, file = written
    kernels, expected = kernels_of(qmodel), {}
    for op in file.operators:
        name = op.inputs[0].partition("/float/weights/")[2]
        if op.code == "DEQUANTIZE":
            expected[op.outputs[0]] = as_stored(kernels[name], file.tensors[op.inputs[0]])
    opened = write_model(times_one(file, expected))
    interpreter = Interpreter(model_content=opened, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images(1))
    interpreter.invoke()
    details = interpreter.get_output_details()
    for values, detail in zip(expected.values(), details, strict=True):
        np.testing.assert_array_equal(interpreter.get_tensor(detail["index"]), values)


def test_no_operator_moves_a_kernel_and_batch_normalization_is_not_folded(written):
    codes = [op.code for op in written[2].operators]
    assert codes.count("DEQUANTIZE") == 5
    assert "TRANSPOSE" not in codes
    assert "RESHAPE" not in codes
    assert codes.count("MUL") == 3  # one for each BatchNormalization: codes stay as learned
    kinds = ["CONV_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "FULLY_CONNECTED"]
    assert [code for code in codes if code in set(kinds)] == kinds


def test_the_file_answers_as_the_model(qmodel, written):
    path, report, _ = written
    x = images(64, seed=1)
    assert nearly(tflite_export.predict(path, x), qmodel.predict(x, verbose=0))
    assert report.mismatches == 0
    for result in report.verifications:
        (found,) = result.float_tensors
        assert (found.name, result.tensors) == ("head", ())
        assert found.relative <= CLOSE
    (against_keras,) = report.comparison.float_outputs
    assert against_keras.relative <= CLOSE
    assert report.comparison.argmax_agreement == 1.0
    assert report.comparison.tensors == ()


def test_the_report_says_what_was_compared(written, tmp_path):
    _, report, _ = written
    text = report.render()
    assert "for LiteRT, float32 I/O" in text
    assert "Proven  the outputs in float32 are the graph's, within rounding, in LiteRT" in text
    assert "to float32 tensor head" in text
    assert "conv 8x3x3x8, 1 bit, 576 bytes" in text
    assert "XNNPACK): float32 tensor 'head' differs from the graph by at most" in text
    assert "Output: float32 tensor 'head' differs from the model by at most" in text
    assert "of 0 elements" not in text
    assert "weights of" not in text
    report.save_json(tmp_path / "report.json")
    assert '"float_outputs": [' in (tmp_path / "report.json").read_text()


def test_kernels_take_a_quarter_of_float32(qmodel, written):
    _, report, _ = written
    (part,) = report.float_parts
    sizes = {name: kernel.size for name, kernel in kernels_of(qmodel).items()}
    assert {each.name: each.stored_bytes for each in part.weights} == sizes


def test_a_saved_model_computes_and_exports_the_same(qmodel, written, tmp_path):
    qmodel.save(tmp_path / "qat.keras")
    again = keras_qat.load_model(tmp_path / "qat.keras")
    x = images(8)
    np.testing.assert_array_equal(again.predict(x, verbose=0), qmodel.predict(x, verbose=0))
    exported(again, tmp_path / "net.tflite")
    assert (tmp_path / "net.tflite").read_bytes() == written[0].read_bytes()


def test_a_saved_graph_exports_the_same(qmodel, written, tmp_path):
    save_graph(qmodel.to_integer(), tmp_path / "graph.npz")
    graph = load_graph(tmp_path / "graph.npz")
    assert [type(op) for op in graph.ops] == [ops.FloatResult]
    report = tflite_export.export(graph, tmp_path / "net.tflite", verbose=False)
    assert (tmp_path / "net.tflite").read_bytes() == written[0].read_bytes()
    found = [result.float_tensors[0].largest_value for result in report.verifications]
    assert min(found) > 0.0  # random inputs, not zeros


def test_io_dtype_changes_nothing(qmodel, written, tmp_path):
    report, _ = exported(qmodel, tmp_path / "net.tflite", io_dtype="float32")
    assert report.io_dtype == "float32"
    assert report.limits == written[1].limits  # no QUANTIZE rounds the input
    assert (tmp_path / "net.tflite").read_bytes() == written[0].read_bytes()


def test_microcontrollers_are_refused_before_and_after_training(qmodel, tmp_path):
    message = r"'stem', .*'head_softmax' compute in float32.* Received: target='tflm'"
    with pytest.raises(tflite_export.ExportError, match=message):
        exported(qmodel, tmp_path / "net.tflite", target="tflm")
    with pytest.raises(tflite_export.ExportError, match="activation_bits of 1 to 8 where it is"):
        tflite_export.plan_memory(quantized())


def test_the_way_out_for_microcontrollers():
    small = keras_qat.quantize(
        dense_network(), keras_qat.LSQConfig(weight_bits=1), calibration_data=points()[0]
    )
    assert tflite_export.plan_memory(small).flash_bytes > 0


CONFIGS = {
    "lsq": keras_qat.LSQConfig,
    "ste": keras_qat.STEConfig,
    "dorefa": keras_qat.DoReFaConfig,
    "pege": keras_qat.PEGEConfig,
    "gdnsq": keras_qat.GDNSQConfig,
}
SCHEDULES = {"pege": PEGESchedule, "gdnsq": lambda: GDNSQSchedule(verbose=0)}


# Every config with each of the others' values, and these with each other.
CASES = [
    (name, bits, (bits == 2) == (place % 2 == 0))
    for place, name in enumerate(CONFIGS)
    for bits in (2, 1)
]


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(("name", "bits", "per_channel"), CASES)
def test_every_config_trains_and_ships_its_weights(name, bits, per_channel, tmp_path):
    config = CONFIGS[name](weight_bits=bits, activation_bits=None, per_channel=per_channel)
    x, y = points(128)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=x)
    qmodel.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    schedules = [SCHEDULES[name]()] if name in SCHEDULES else []
    epochs = 12 if name == "gdnsq" else 2  # widths need their time
    qmodel.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=schedules)
    assert qmodel.meets_targets()
    report, file = exported(qmodel, tmp_path / "net.tflite", x)
    stored, kernels = constants_of(file), kernels_of(qmodel)
    for layer, kernel in kernels.items():
        np.testing.assert_array_equal(dequantized(stored[layer]), kernel.T)
    assert report.comparison.float_outputs[0].relative <= CLOSE


def test_pege_logs_weights_alone():
    config = keras_qat.PEGEConfig(weight_bits=1, activation_bits=None)
    x, y = points(64)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=x)
    assert set(qmodel.replaced_quantizers) == {f"{n}/weights" for n in ("first", "hidden", "last")}
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    logs = qmodel.fit(x, y, epochs=2, verbose=0, callbacks=[PEGESchedule()]).history
    assert "weight_discretization_error" in logs
    assert "activation_discretization_error" not in logs


def test_gdnsq_logs_weights_alone():
    config = keras_qat.GDNSQConfig(weight_bits=2, activation_bits=None)
    x, y = points(64)
    qmodel = keras_qat.quantize(dense_network(), config, calibration_data=x)
    assert [width.layer.name for width in qmodel.learned_widths] == ["first", "hidden", "last"]
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    qmodel.bit_width_penalty.temperature.assign(1.0)
    with pytest.warns(UserWarning, match="learns its bit widths"):
        logs = qmodel.fit(x, y, verbose=0).history
    terms = {"task_loss", "weight_violation", "mean_weight_bits", "max_weight_bits"}
    assert set(logs) == {"loss", *terms}
    assert logs["weight_violation"][0] > 0.0


def test_monitors_and_pictures_have_weights_alone(qmodel):
    pytest.importorskip("matplotlib")
    monitor = CapacityMonitor(images(4))
    model = quantized()
    trained(model, callbacks=[monitor])
    assert {each["kind"] for each in monitor.history["tensors"].values()} == {"weights"}
    assert monitor.bottlenecks(n=1) != []
    assert monitor.bottlenecks(by="bits_per_example") == []
    keras_qat.plot_capacity(monitor)
    figure = keras_qat.plot_grids(qmodel, images(4))
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(titles) == 5
    assert all("weights" in title for title in titles)
    assert set(qmodel.layer_codes(images(2))) == {"image", "head"}


def every_weight_layer():
    """Every layer with a kernel, some without a bias, one called twice."""
    inputs = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(8, 3, groups=2, padding="same", name="grouped")(inputs)
    twice = layers.Conv2D(8, 3, dilation_rate=2, padding="same", use_bias=False, name="twice")
    x = twice(layers.ReLU(name="between")(twice(x)))
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="up")(x)
    x = layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, name="depthwise")(x)
    x = layers.Reshape((49, 12), name="sequence")(x)
    x = layers.Conv1D(6, 3, padding="causal", dilation_rate=2, name="causal")(x)
    x = layers.Conv1DTranspose(6, 3, strides=2, name="longer")(x)
    x = layers.DepthwiseConv1D(3, name="depthwise_1d")(x)
    x = layers.SeparableConv1D(5, 3, activation="tanh", name="separable")(x)
    x = layers.PReLU(name="prelu")(x)
    x = layers.Dense(4, activation="relu", use_bias=False, name="rows")(x)
    x = layers.EinsumDense("abc,cd->abd", (95, 6), activation="relu", name="einsum")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    x = layers.EinsumDense("ab,bc->ac", 6, activation="relu", name="flat_einsum")(x)
    x = layers.Dense(5, activation="relu", use_bias=False, name="unbiased")(x)
    return randomize(keras.Model(inputs, layers.Dense(3, name="head")(x)))


def test_every_weight_layer_ships_its_weights(tmp_path):
    x = images(16, (8, 8, 4))
    config = keras_qat.LSQConfig(weight_bits=3, activation_bits=None)
    qmodel = keras_qat.quantize(every_weight_layer(), config, calibration_data=x)
    report, file = exported(qmodel, tmp_path / "net.tflite", x, min_argmax_agreement=0.0)
    stored, kernels = constants_of(file), kernels_of(qmodel)
    assert stored.keys() == kernels.keys()
    for name, kernel in kernels.items():
        expected = as_stored(kernel, stored[name])
        np.testing.assert_array_equal(dequantized(stored[name]), expected, err_msg=name)
    assert report.comparison.float_outputs[0].relative <= CLOSE
    assert all(each.float_tensors[0].relative <= CLOSE for each in report.verifications)
