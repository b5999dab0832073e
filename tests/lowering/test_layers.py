"""E2, layer by layer: the integer op is at most 1 LSB from the Keras model on the same inputs."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.integer import ops
from tests.models import images, randomize
from tests.seams import op_differences

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers

# (name, layers between input and output; a list in the place of a layer joins branches by Add)
CASES = {
    "conv2d": [layers.Conv2D, {"filters": 5, "kernel_size": 3}],
    "conv2d_same_stride": [
        layers.Conv2D,
        {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"},
    ],
    "conv2d_dilated": [layers.Conv2D, {"filters": 4, "kernel_size": 3, "dilation_rate": 2}],
    "conv2d_relu": [layers.Conv2D, {"filters": 5, "kernel_size": 3, "activation": "relu"}],
    "conv2d_relu6": [layers.Conv2D, {"filters": 5, "kernel_size": 3, "activation": "relu6"}],
    "conv2d_groups": [layers.Conv2D, {"filters": 6, "kernel_size": 3, "groups": 3}],
    "conv2d_transpose": [layers.Conv2DTranspose, {"filters": 5, "kernel_size": 3}],
    "conv2d_transpose_same": [
        layers.Conv2DTranspose,
        {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu"},
    ],
    "conv2d_transpose_output_padding": [
        layers.Conv2DTranspose,
        {"filters": 5, "kernel_size": (2, 3), "strides": (2, 3), "output_padding": (0, 2)},
    ],
    "conv2d_transpose_with_holes": [
        layers.Conv2DTranspose,
        {"filters": 5, "kernel_size": (1, 3), "strides": (2, 3), "padding": "same"},
    ],
    "dense_on_the_last_axis": [layers.Dense, {"units": 5, "activation": "relu"}],
    "depthwise_dilated": [
        layers.DepthwiseConv2D,
        {"kernel_size": 3, "strides": (1, 2), "dilation_rate": (2, 1)},
    ],
    "depthwise": [layers.DepthwiseConv2D, {"kernel_size": 3, "padding": "same"}],
    "depthwise_multiplier": [
        layers.DepthwiseConv2D,
        {"kernel_size": 3, "depth_multiplier": 2, "strides": 2},
    ],
    "separable": [layers.SeparableConv2D, {"filters": 5, "kernel_size": 3, "activation": "relu"}],
    "batch_normalization": [layers.BatchNormalization, {}],
    "rescaling": [layers.Rescaling, {"scale": 0.3, "offset": -1.0}],
    "rescaling_of_channels": [layers.Rescaling, {"scale": [1, -2, 3], "offset": [0.1, 0.2, 0.0]}],
    "normalization": [layers.Normalization, {"mean": [1, 2, 3], "variance": [4.0, 0.1, 1.0]}],
    "normalization_of_all": [layers.Normalization, {"axis": None, "mean": 0.3, "variance": 2.0}],
    "max_pooling": [layers.MaxPooling2D, {"pool_size": 2}],
    "max_pooling_same": [layers.MaxPooling2D, {"pool_size": 3, "strides": 2, "padding": "same"}],
    "average_pooling": [layers.AveragePooling2D, {"pool_size": 2}],
    "average_pooling_same": [
        layers.AveragePooling2D,
        {"pool_size": 3, "strides": 2, "padding": "same"},
    ],
    "average_pooling_of_everything": [layers.AveragePooling2D, {"pool_size": 9}],
    "global_average_pooling": [layers.GlobalAveragePooling2D, {}],
    "global_average_pooling_kept": [layers.GlobalAveragePooling2D, {"keepdims": True}],
    "global_max_pooling": [layers.GlobalMaxPooling2D, {}],
    "global_max_pooling_kept": [layers.GlobalMaxPooling2D, {"keepdims": True}],
    "cropping": [layers.Cropping2D, {"cropping": ((1, 0), (2, 3))}],
    "permute": [layers.Permute, {"dims": (3, 1, 2)}],
    "upsampling_bilinear": [
        layers.UpSampling2D,
        {"size": (2, 4), "interpolation": "bilinear"},
    ],
    "upsampling": [layers.UpSampling2D, {"size": (2, 3)}],
    "flatten": [layers.Flatten, {}],
    "reshape": [layers.Reshape, {"target_shape": (27, 9)}],
    "zero_padding": [layers.ZeroPadding2D, {"padding": ((1, 0), (2, 1))}],
    "dropout": [layers.Dropout, {"rate": 0.5}],
    "relu": [layers.ReLU, {}],
    "relu6": [layers.ReLU, {"max_value": 6.0}],
    "activation_linear": [layers.Activation, {"activation": "linear"}],
    "softmax": [layers.Softmax, {}],
}
SEQUENCES = {
    "conv1d": [layers.Conv1D, {"filters": 5, "kernel_size": 3, "activation": "relu"}],
    "conv1d_same_stride": [
        layers.Conv1D,
        {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"},
    ],
    "conv1d_causal": [
        layers.Conv1D,
        {"filters": 5, "kernel_size": 3, "dilation_rate": 2, "padding": "causal"},
    ],
    "conv1d_causal_of_one_step": [
        layers.Conv1D,
        {"filters": 6, "kernel_size": 1, "padding": "causal", "groups": 3},
    ],
    "conv1d_transpose": [
        layers.Conv1DTranspose,
        {"filters": 5, "kernel_size": 2, "strides": 3, "padding": "same"},
    ],
    "depthwise1d": [layers.DepthwiseConv1D, {"kernel_size": 3, "strides": 2, "padding": "same"}],
    "depthwise1d_multiplier": [
        layers.DepthwiseConv1D,
        {"kernel_size": 3, "depth_multiplier": 2, "dilation_rate": 2},
    ],
    "separable1d": [layers.SeparableConv1D, {"filters": 5, "kernel_size": 3}],
    "dense_on_sequences": [layers.Dense, {"units": 5}],
    "batch_normalization_of_sequences": [layers.BatchNormalization, {}],
    "max_pooling1d": [layers.MaxPooling1D, {"pool_size": 3, "strides": 2, "padding": "same"}],
    "average_pooling1d": [
        layers.AveragePooling1D,
        {"pool_size": 3, "strides": 2, "padding": "same"},
    ],
    "average_pooling1d_of_everything": [layers.AveragePooling1D, {"pool_size": 12}],
    "global_average_pooling1d": [layers.GlobalAveragePooling1D, {}],
    "global_average_pooling1d_kept": [layers.GlobalAveragePooling1D, {"keepdims": True}],
    "global_max_pooling1d": [layers.GlobalMaxPooling1D, {}],
    "global_max_pooling1d_kept": [layers.GlobalMaxPooling1D, {"keepdims": True}],
    "cropping1d": [layers.Cropping1D, {"cropping": (1, 3)}],
    "upsampling1d": [layers.UpSampling1D, {"size": 2}],
    "zero_padding1d": [layers.ZeroPadding1D, {"padding": (2, 1)}],
}
# Layers whose integers are those of the input, moved or compared: nothing to round.
EXACT = {
    *("max_pooling1d", "average_pooling1d", "global_max_pooling1d", "global_max_pooling1d_kept"),
    *("cropping1d", "upsampling1d", "zero_padding1d"),
    *("global_max_pooling", "global_max_pooling_kept", "cropping", "permute", "upsampling"),
    *("max_pooling", "max_pooling_same", "average_pooling", "average_pooling_same"),
    *("flatten", "reshape", "zero_padding", "dropout", "relu", "relu6", "activation_linear"),
}


def quantized(outputs_of, x, bits):
    """A layer between an input grid and the model's output, everything at `bits`."""
    inputs = keras.Input(x.shape[1:], name="image")
    model = randomize(keras.Model(inputs, outputs_of(inputs)))
    config = keras_qat.LSQConfig(
        weight_bits=bits,
        activation_bits=bits,
        first_and_last_bits=bits,
        input_bits=bits,
        add_bits=bits,
    )
    return keras_qat.quantize(model, config, calibration_data=x)


def check(qmodel, x, exact=False):
    differences = op_differences(qmodel.to_integer(), qmodel.layer_codes(x))
    for difference in differences:
        assert difference.largest <= (0 if exact else 1), difference
    return differences


@pytest.mark.parametrize(("bits", "signed"), [(1, True), (3, False), (8, True), (8, False)])
@pytest.mark.parametrize("case", CASES)
def test_one_layer_on_images(case, bits, signed):
    check_layer(case, CASES[case], 3.0 * images(16, (9, 9, 3)), bits, signed)


@pytest.mark.parametrize(("bits", "signed"), [(1, False), (3, True), (8, True)])
@pytest.mark.parametrize("case", SEQUENCES)
def test_one_layer_on_sequences(case, bits, signed):
    check_layer(case, SEQUENCES[case], 3.0 * images(16, (12, 3)), bits, signed)


def check_layer(case, layer, x, bits, signed):
    layer_type, arguments = layer
    x = x if signed else np.abs(x)
    qmodel = quantized(layer_type(**arguments), x, bits)
    graph = qmodel.to_integer()
    assert check(qmodel, x, exact=case in EXACT) or case in EXACT
    codes = qmodel.layer_codes(x)
    outputs = codes.get(graph.outputs[0])
    if case in EXACT:
        from keras_qat.integer import run

        values = run(graph, codes["image"], "tflm")[graph.outputs[0]]
        keras_values = qmodel.predict(x, verbose=0)
        np.testing.assert_array_equal(
            graph.tensors[graph.outputs[0]].qparams.dequantize(values), keras_values
        )
    else:
        assert outputs is not None


@pytest.mark.parametrize("shape", [(9, 9, 3), (12, 3), (5,)], ids=str)
def test_one_normalization_behind_another_is_one_op(shape):
    x = images(16, shape)
    both = keras.Sequential([layers.BatchNormalization(), layers.BatchNormalization()])
    qmodel = quantized(both, x, 8)
    assert check(qmodel, x)
    kinds = [type(op) for op in qmodel.to_integer().ops]
    assert kinds.count(ops.DepthwiseConv2D) == 1


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("kind", [layers.Add, layers.Subtract, layers.Multiply])
def test_two_tensors(kind, bits, relu):
    def branches(inputs):
        left = layers.Conv2D(4, 3, padding="same")(inputs)
        right = layers.Conv2D(4, 1)(inputs)
        merged = kind()([left, right])
        return layers.ReLU()(merged) if relu else merged

    x = images(16, (9, 9, 3))
    assert len(check(quantized(branches, x, bits), x)) == 3


@pytest.mark.parametrize("kind", [layers.Add, layers.Subtract, layers.Multiply])
def test_a_gate_per_channel_comes_first_or_second(kind):
    def branches(inputs):
        gate = layers.GlobalAveragePooling2D(keepdims=True)(inputs)
        return kind()([gate, kind()([inputs, gate])])

    x = images(16, (9, 9, 3))
    assert len(check(quantized(branches, x, 8), x)) == 3


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("kind", [layers.Maximum, layers.Minimum])
def test_two_tensors_are_compared_on_one_grid(kind, bits):
    """Comparing rounds nothing: the file's integers are those of the Keras model."""

    def branches(inputs):
        left = layers.Conv2D(4, 3, padding="same", name="left")(inputs)
        right = layers.Conv2D(4, 1, activation="relu", name="right")(inputs)
        return kind(name="kept")([left, right])

    x = images(16, (9, 9, 3))
    qmodel = quantized(branches, x, bits)
    assert len(check(qmodel, x)) == 2
    graph, codes = qmodel.to_integer(), qmodel.layer_codes(x)
    keep = np.maximum if kind is layers.Maximum else np.minimum
    np.testing.assert_array_equal(
        graph.tensors["kept"].qparams.dequantize(keep(codes["left"], codes["right_relu"])),
        qmodel.predict(x, verbose=0),
    )


def test_a_difference_of_positive_tensors_is_signed():
    x = np.abs(images(16, (9, 9, 3)))
    qmodel = quantized(lambda inputs: layers.Subtract()([inputs, layers.ReLU()(inputs)]), x, 8)
    assert [quantizer.grid.qmin for quantizer in qmodel.quantizers] == [0, -128]


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("activated", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("axis", [1, -1])
def test_concatenate(bits, activated, axis):
    def branches(inputs):
        joined = []
        for index, relu in enumerate(activated):
            branch = layers.Conv2D(4, 3, padding="same", name=f"conv{index}")(inputs)
            joined.append(layers.ReLU(name=f"relu{index}")(branch) if relu else branch)
        return layers.Conv2D(2, 1, name="last")(layers.Concatenate(axis=axis)(joined))

    x = images(16, (9, 9, 3))
    qmodel = quantized(branches, x, bits)
    assert len(check(qmodel, x)) == 3
    assert [type(op).__name__ for op in qmodel.to_integer().ops].count("Concatenate") == 1


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_dense_and_its_batch_normalization(bits):
    def head(inputs):
        x = layers.Dense(7, name="dense")(inputs)
        return layers.BatchNormalization()(x)

    x = images(32, (11,))
    qmodel = quantized(head, x, bits)
    check(qmodel, x)
    assert type(qmodel.to_integer().ops[0]).__name__ == "FullyConnected"


def test_batch_normalization_of_features_without_a_weight_layer_before_it():
    x = images(32, (11,))
    qmodel = quantized(layers.BatchNormalization(), x, 8)
    check(qmodel, x)
    kinds = [type(op).__name__ for op in qmodel.to_integer().ops]
    assert kinds == ["Reshape", "DepthwiseConv2D", "Reshape"]


@pytest.mark.parametrize("bits", [3, 8])
def test_interpolation_is_that_of_xnnpack_and_exports(bits, tmp_path):
    def enlarged(inputs):
        x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
        x = layers.UpSampling2D(2, interpolation="bilinear", name="larger")(x)
        return layers.Conv2D(2, 3, name="last")(x)

    x = images(16, (9, 9, 3))
    qmodel = quantized(enlarged, x, bits)
    assert qmodel.get_layer("last").connections
    assert qmodel.get_layer("conv").connections[0].output_quantizer.accumulators
    differences = {each.name: each for each in check(qmodel, x)}
    assert differences["larger"].flip_rate == 0.0
    for target in ("litert", "tflm"):
        report = tflite_export.export(
            qmodel,
            tmp_path / f"{target}.tflite",
            target=target,
            samples=x,
            min_argmax_agreement=0.0,  # which pixel is the brightest means nothing
            verbose=False,
        )
        assert report.mismatches == 0


def test_a_collapsed_channel_becomes_a_constant():
    inputs = keras.Input((9, 9, 3), name="image")
    bn = layers.BatchNormalization()
    model = keras.Model(inputs, bn(layers.Conv2D(4, 3, name="conv")(inputs)))
    randomize(model)
    gamma = np.array([1.0, 0.0, 1e-12, -1.0])
    bn.gamma.assign(gamma)
    x = images(16, (9, 9, 3))
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=x)
    (op,) = qmodel.to_integer().ops
    alive = np.abs(op.weight.values).sum(axis=(1, 2, 3)) > 0
    assert alive.tolist() == [True, False, False, True]
    check(qmodel, x)


def test_a_channel_that_cannot_be_stated_is_refused_by_name():
    inputs = keras.Input((9, 9, 3), name="image")
    model = keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(inputs))
    kernel, _ = model.get_layer("conv").get_weights()
    kernel[..., 1] = 1e-9
    model.get_layer("conv").set_weights([kernel, np.array([0.0, 10.0])])
    x = images(16, (9, 9, 3))
    qmodel = keras_qat.quantize(
        model, keras_qat.LSQConfig(weight_bits=8), calibration_data=1e-3 * x
    )
    quantizer = qmodel.get_layer("conv").weight_quantizer
    assert quantizer.qparams().scale[1] < 1e-10
    (op,) = qmodel.to_integer().ops  # worthless beside its bias: dropped
    assert not op.weight.values[1].any()


def test_a_bias_far_beyond_the_grid_saturates_as_in_the_model(tmp_path):
    inputs = keras.Input((9, 9, 3), name="image")
    model = keras.Model(inputs, layers.Conv2D(3, 3, name="conv")(inputs))
    x = 1e-9 * images(16, (9, 9, 3))
    qmodel = keras_qat.quantize(model, "lsq", calibration_data=x)
    qmodel.get_layer("conv").layer.bias.assign([0.0, 1.0, -1.0])
    check(qmodel, x)
    codes = qmodel.layer_codes(x)["conv"]
    assert np.unique(codes[..., 0]).size > 50
    assert np.unique(codes[..., 1:].reshape(-1, 2), axis=0).tolist() == [[127, -128]]
    report = tflite_export.export(qmodel, tmp_path / "far.tflite", verbose=False)
    assert all(not t.differing for v in report.verifications for t in v.tensors)


def test_negative_batch_normalization_gain_flips_integers_and_rounds_none():
    inputs = keras.Input((9, 9, 3), name="image")
    conv = layers.Conv2D(4, 3, name="conv", use_bias=False)
    bn = layers.BatchNormalization(name="bn")
    model = randomize(keras.Model(inputs, bn(conv(inputs))))
    bn.gamma.assign([1.0, -1.0, 0.5, -0.5])
    x = images(16, (9, 9, 3))
    qmodel = keras_qat.quantize(
        model, keras_qat.LSQConfig(first_and_last_bits=3), calibration_data=x
    )
    op = qmodel.to_integer().ops[0]
    learned = np.moveaxis(qmodel.get_layer("conv").weight_codes(), -1, 0)
    signs = np.array([1, -1, 1, -1]).reshape(4, 1, 1, 1)
    np.testing.assert_array_equal(op.weight.values, learned * signs)


def test_a_relu6_below_the_top_of_the_grid_keeps_its_clamp(tmp_path):
    x = 3.0 * images(16, (9, 9, 3))
    layer_type, arguments = CASES["conv2d_relu6"]
    qmodel = quantized(layer_type(**arguments), x, 8)
    qmodel.quantizers[-1].set_scale(0.05)  # 6.0 is code 120 of 255
    graph = qmodel.to_integer()
    grid = graph.tensors[graph.outputs[0]].qparams
    assert (grid.qmin, grid.qmax) == (-128, -8)
    check(qmodel, x)
    report = tflite_export.export(qmodel, tmp_path / "relu6.tflite", samples=x, verbose=False)
    assert report.mismatches == 0


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_a_relu6_that_is_too_many_steps_away_for_the_runtimes(target, tmp_path):
    x = images(16, (9, 9, 3))
    inputs = keras.Input(x.shape[1:], name="image")
    model = keras.Model(inputs, layers.Conv2D(5, 3, activation="relu6", use_bias=False)(inputs))
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 1e-11)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    assert 6.0 / float(qmodel.quantizers[-1].scale) > 2.0**31
    check(qmodel, x)
    path = tmp_path / "relu6.tflite"
    report = tflite_export.export(qmodel, path, target=target, samples=x, verbose=False)
    assert report.mismatches == 0
