"""`from_tfmot`, on files that TFMOT left: its grids, its weights, and what is refused."""

import json
import shutil

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_qat
import tflite_export
from keras_qat.quantizers import Grid
from keras_qat.tfmot.grids import grid_of_range, weight_scale
from tests.tfmot.checks import POOLED, check_file, check_grids, units_apart
from tests.tfmot.examples import FILES, SHAPES, examples, interpreter_of

every_network = pytest.mark.parametrize("name", SHAPES)
pooled = pytest.mark.filterwarnings("ignore:TFMOT has ranges of its own:UserWarning")


def changed(tmp_path, name, change, **values):
    """A copy of a file, with another configuration and other values of variables."""
    path = tmp_path / f"{name}.h5"
    shutil.copy(FILES / f"{name}.h5", path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change({layer["config"]["name"]: layer for layer in config["config"]["layers"]})
        file.attrs["model_config"] = json.dumps(config)
        for variable, value in values.items():
            group, _, last = variable.rpartition("__")
            file[f"model_weights/{group}/{group}/{last}:0"][...] = value
    return path


@every_network
def test_grids_and_answers_are_those_of_tfmots_file(name, tmp_path, recwarn):
    qmodel = keras_qat.from_tfmot(FILES / f"{name}.h5")
    said = [str(each.message) for each in recwarn if "TFMOT" in str(each.message)]
    assert [("'pool'" in each) for each in said] == [True] * (name in POOLED)
    check_grids(qmodel, FILES / f"{name}.tflite")
    check_file(name, qmodel, FILES / f"{name}.tflite", tmp_path)


@pytest.mark.parametrize("units", [1, 2])
def test_a_bias_that_is_units_apart_is_found(units, tmp_path):
    theirs = FILES / "separable.tflite"
    qmodel = keras_qat.from_tfmot(FILES / "separable.h5")
    (bias,) = [each for each in qmodel.variables if each.path.endswith("head/bias")]
    details = interpreter_of(theirs).get_tensor_details()
    (scales,) = [
        detail["quantization_parameters"]["scales"]
        for detail in details
        if detail["dtype"] is np.int32 and tuple(detail["shape"]) == tuple(bias.shape)
    ]
    bias.assign_add(units * scales * [1, 0, 0, 0])
    if units == 1:
        check_file("separable", qmodel, theirs, tmp_path)
    else:
        with pytest.raises(AssertionError):
            check_file("separable", qmodel, theirs, tmp_path)
    apart = np.concatenate(list(units_apart(tmp_path / "separable.tflite", theirs)))
    assert apart[apart != 0].tolist() == [units]


def test_kernels_are_tfmots_to_the_last_code():
    qmodel = keras_qat.from_tfmot(FILES / "dense.h5")
    interpreter = interpreter_of(FILES / "dense.tflite")
    interpreter.allocate_tensors()
    stored = [
        interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] is np.int8 and len(detail["shape"]) == 2 and 1 not in detail["shape"]
    ]
    ours = [qmodel.get_layer(name).weight_codes().T for name in ("first", "hidden", "head")]
    for codes in ours:
        assert any(codes.shape == each.shape and np.array_equal(codes, each) for each in stored)


@pooled
def test_layers_keep_their_names_and_weights():
    qmodel = keras_qat.from_tfmot(FILES / "residual.h5")
    with h5py.File(FILES / "residual.h5") as file:
        groups = file["model_weights"]
        kernel = groups["quant_stem/stem/kernel:0"][...]
        variance = groups["quant_conv_bn/conv_bn/moving_variance:0"][...]
    np.testing.assert_array_equal(qmodel.get_layer("stem").layer.kernel, kernel)
    np.testing.assert_array_equal(qmodel.get_layer("conv_bn").moving_variance, variance)
    assert qmodel.name == "residual"
    assert {"stem_relu", "add", "pool", "flatten", "head"} <= {each.name for each in qmodel.layers}


@pooled
def test_training_goes_on_at_lower_bits(tmp_path):
    x, y = (each[:256] for each in examples(SHAPES["residual"]))
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)
    qmodel = keras_qat.from_tfmot(FILES / "residual.h5", config, calibration_data=x)
    assert qmodel.get_layer("conv").weight_quantizer.bits == 4
    qmodel.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    qmodel.fit(x, y, epochs=1, verbose=0)
    assert qmodel.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] > 0.9
    report = tflite_export.export(qmodel, tmp_path / "m.tflite", samples=x, verbose=False)
    assert report.mismatches == 0


def test_pruned_and_clustered_models_keep_what_they_are():
    x, y = (each[:256] for each in examples(SHAPES["dense"]))
    for name, option in (("pruned", "preserve_sparsity"), ("clustered", "preserve_clusters")):
        qmodel = keras_qat.from_tfmot(FILES / f"{name}.h5", calibration_data=x, **{option: True})
        qmodel.compile("adam", "sparse_categorical_crossentropy")
        qmodel.fit(x, y, epochs=1, verbose=0)
        for layer in ("first", "hidden", "head"):
            codes = qmodel.get_layer(layer).weight_codes()
            if name == "pruned":
                assert np.mean(codes == 0) >= 0.74
            else:
                assert max(np.unique(channel).size for channel in codes.T) <= 4


def test_a_model_with_wrappers_of_pruning_is_refused():
    message = r"'prune_low_magnitude_hidden' \(PruneLowMagnitude\): call .*strip_pruning\(model\)"
    with pytest.raises(keras_qat.UnsupportedLayerError, match=message):
        keras_qat.from_tfmot(FILES / "wrapped.h5")


def test_layers_that_cannot_be_read_are_named_together(tmp_path):
    def change(layers):
        layers["quant_first"]["config"]["quantize_config"]["class_name"] = "MyConfig"
        layers["quant_hidden"]["config"]["layer"]["class_name"] = "Lambda"
        layers["quant_head"]["config"]["layer"]["config"]["dtype"] = "float16"

    path = changed(tmp_path, "dense", change)
    with pytest.raises(keras_qat.UnsupportedLayerError) as raised:
        keras_qat.from_tfmot(path)
    assert "'first': its MyConfig is not of TFMOT's 8-bit scheme" in str(raised.value)
    assert "'hidden' (Lambda): no layer of Keras 3" in str(raised.value)
    assert "'head' (Dense): Keras 3 does not make it: its dtype is 'float16'" in str(raised.value)


def test_a_sigmoid_has_the_grid_on_which_runtimes_write_it(tmp_path):
    def change(layers):
        activation = layers["quant_head"]["config"]["layer"]["config"]["activation"]
        activation["config"]["activation"] = "sigmoid"

    qmodel = keras_qat.from_tfmot(changed(tmp_path, "dense", change))
    quantizer = qmodel.named_quantizers["head_sigmoid/activations"]
    assert (quantizer.grid, float(quantizer.scale)) == (Grid(0, 255), 1 / 256)


def test_a_tensor_that_tfmot_has_not_seen_starts_from_data(tmp_path):
    values = {"quant_first__post_activation_min": 0.0, "quant_first__post_activation_max": 0.0}
    path = changed(tmp_path, "dense", lambda layers: None, **values)
    with pytest.raises(ValueError, match=r"no ranges for 'first_relu' of 'dense'.*Give a few"):
        keras_qat.from_tfmot(path)
    x, _ = examples(SHAPES["dense"])
    qmodel = keras_qat.from_tfmot(path, calibration_data=x)
    given = keras_qat.from_tfmot(FILES / "dense.h5")
    for name, quantizer in qmodel.named_quantizers.items():
        same = np.array_equal(quantizer.scale, given.named_quantizers[name].scale)
        assert same == (name != "first_relu/activations")


def test_what_is_no_model_of_tfmot_is_refused(tmp_path):
    text = tmp_path / "model.keras"
    text.write_text("no model")
    weights = tmp_path / "weights.h5"
    with h5py.File(weights, "w") as file:
        file.create_group("layer")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="new")
    for given, message in (
        (text, r"model.keras: this is no HDF5 file. .*model.save\('model.h5'\)"),
        (weights, "weights.h5: the file holds weights without a model. Save it"),
        (model, "the Keras 3 model 'new'. Call keras_qat.quantize"),
        (7, "a model of tf_keras or a path. Received: 7"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_qat.from_tfmot(given)
    with pytest.raises(ValueError, match=r"because TFMOT did not quantize it.*calibration_data"):
        keras_qat.from_tfmot(FILES / "pruned.h5")
    with pytest.raises(ValueError, match="because a config is given"):
        keras_qat.from_tfmot(FILES / "dense.h5", "lsq")


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.0, 6.0), (-3.7, 0.01), (0.5, 4.0)])
def test_grids_have_the_levels_of_fake_quant(low, high):
    found = grid_of_range(low, high)
    x = np.linspace(min(low, 0.0), max(high, 0.0), 5001, dtype=np.float32)
    levels = tf.quantization.fake_quant_with_min_max_vars(x, min(low, 0.0), max(high, 0.0))
    codes = np.rint(np.asarray(levels) / found.scale)
    np.testing.assert_allclose(levels, codes * found.scale, atol=1e-6)
    assert (codes.min(), codes.max()) == (found.grid.qmin, found.grid.qmax)
    assert grid_of_range(0.0, 0.0) is None


def test_scales_of_kernels():
    low, high = np.float32([-1.27, -2.0]), np.float32([1.0, 2.54])
    expected = np.float32([0.01, 0.02, 0.01, 0.02])
    np.testing.assert_allclose(weight_scale(low, high, channels=4), expected, rtol=1e-6)
    zero = np.float32(0.0)
    assert weight_scale(zero, zero, channels=2).tolist() == [1.0, 1.0]
