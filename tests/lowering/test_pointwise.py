"""E2 for functions of one number: no element differs, in the integer model and in the file."""

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from keras_qat.integer import ops
from keras_qat.layer_rules.table import ACTIVATIONS
from keras_qat.lowering.pointwise import lower_pointwise
from keras_qat.quantized_layers import approximate_gelu
from tests.models import images, randomize
from tests.seams import op_differences

pytestmark = pytest.mark.slow_beyond(1)

layers = keras.layers

FUNCTIONS = [
    name
    for name, rule in ACTIVATIONS.items()
    if rule.lower is lower_pointwise and hasattr(keras.activations, name)
]
LAYERS = {
    "elu": lambda: layers.ELU(0.5),
    "leaky_relu": lambda: layers.LeakyReLU(0.05),
    "prelu": lambda: layers.PReLU(alpha_initializer="ones", shared_axes=[1, 2, 3]),
    "relu_5": lambda: layers.ReLU(max_value=5.0),
    "relu_slope": lambda: layers.ReLU(negative_slope=0.1),
    "relu_threshold": lambda: layers.ReLU(max_value=3.0, negative_slope=0.1, threshold=1.0),
    "swish": lambda: layers.Activation("swish"),
    "hard_swish": lambda: layers.Activation("hard_swish"),
    **{name: lambda name=name: layers.Activation(name) for name in FUNCTIONS},
}


def quantized(layer, x, bits):
    inputs = keras.Input(x.shape[1:], name="image")
    model = keras.Model(inputs, layer(inputs))
    config = keras_qat.LSQConfig(
        activation_bits=bits, first_and_last_bits=bits, input_bits=bits, add_bits=bits
    )
    return keras_qat.quantize(model, config, calibration_data=x)


CASES = [
    *((name, 8, True) for name in LAYERS),
    *(
        (name, bits, signed)
        for name in ("sigmoid", "silu", "log_sigmoid", "prelu", "relu_threshold")
        for bits in (1, 4)
        for signed in (True, False)
    ),
]


@pytest.mark.parametrize(("name", "bits", "signed"), CASES)
def test_no_element_differs(name, bits, signed):
    x = 3.0 * images(16, (9, 9, 3))
    x = x if signed else np.abs(x)
    qmodel = quantized(LAYERS[name](), x, bits)
    graph = qmodel.to_integer()
    (op,) = graph.ops
    assert isinstance(op, ops.Lookup)
    (difference,) = op_differences(graph, qmodel.layer_codes(x))  # compiled
    assert difference.largest == 0
    eager = np.asarray(qmodel(x, training=False))
    codes = qmodel.layer_codes(x)[op.output]
    np.testing.assert_array_equal(graph.tensors[op.output].qparams.dequantize(codes), eager)
    assert np.unique(codes).size > 1 or bits == 1


@pytest.mark.parametrize(
    ("name", "lowest"),
    [("sigmoid", 0), ("relu_5", 0), ("log_sigmoid", -8), ("relu_threshold", -8), ("tanh", 0)],
)
def test_grids_behind_unsigned_inputs_have_the_sign_of_the_function(name, lowest):
    qmodel = quantized(LAYERS[name](), np.abs(images(16, (9, 9, 3))), 4)
    assert qmodel.quantizers[-1].qparams().qmin == lowest


def test_what_enters_and_leaves_has_its_own_bits():
    """8 bits before the function by default, so that only its output has few."""
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 1, activation="silu", name="conv")(inputs)
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x))
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)
    qmodel = keras_qat.quantize(model, config, calibration_data=images(8, (6, 6, 3)))
    bits = {quantizer.name: quantizer.bits for quantizer in qmodel.quantizers}
    assert bits["conv_quantizer"] == 8
    assert bits["conv_silu_quantizer"] == 4


def test_a_trained_network_of_functions_deploys(tmp_path):
    functions = ["silu", "leaky_relu", "hard_swish"]
    x = images(32, (6, 6, 3))
    outputs = inputs = keras.Input((6, 6, 3), name="image")
    for name in functions:
        outputs = layers.Conv2D(4, 1, name=f"conv_{name}", activation=name)(outputs)
        outputs = layers.BatchNormalization(name=f"norm_{name}")(outputs)
    outputs = layers.Dense(3, activation="sigmoid", name="head")(layers.Flatten()(outputs))
    model = randomize(keras.Model(inputs, outputs))
    qmodel = keras_qat.quantize(
        model, keras_qat.LSQConfig(weight_bits=4, activation_bits=4), calibration_data=x
    )
    qmodel.compile("adam", "binary_crossentropy", jit_compile=False)
    qmodel.fit(x, np.ones((32, 3)), batch_size=16, verbose=0)
    qmodel.save(tmp_path / "qat.keras")
    loaded = keras_qat.load_model(tmp_path / "qat.keras")
    np.testing.assert_array_equal(loaded(x), qmodel(x))
    for target in ("litert", "tflm"):
        report = tflite_export.export(
            qmodel,
            tmp_path / f"{target}.tflite",
            target=target,
            samples=x,
            max_flip_rate=1.0,  # a barely trained network with the double rounding of TFLM
            min_argmax_agreement=0.0,
            verbose=False,
        )
        assert report.mismatches == 0
    graph = qmodel.to_integer()
    lookups = {op.output for op in graph.ops if isinstance(op, ops.Lookup)}
    assert len(lookups) == len(functions) + 1
    for difference in op_differences(graph, qmodel.layer_codes(x)):
        assert difference.largest <= (0 if difference.name in lookups else 1), difference


def test_a_learned_slope_is_kept():
    inputs, prelu = keras.Input((6, 6, 3), name="image"), LAYERS["prelu"]()
    model = keras.Model(inputs, prelu(inputs))
    prelu.alpha.assign([[[0.25]]])
    qmodel = keras_qat.quantize(model, calibration_data=images(8, (6, 6, 3)))
    assert float(qmodel.get_layer(prelu.name).alpha[0, 0, 0]) == 0.25
    assert len(qmodel.get_layer(prelu.name).trainable_weights) == 1


def test_a_gelu_by_its_approximation_stays_that(tmp_path):
    inputs = keras.Input((16,), name="numbers")
    model = keras.Model(inputs, keras.ops.gelu(inputs))
    x = 3.0 * images(64, (16,))
    qmodel = keras_qat.quantize(model, calibration_data=x)
    assert qmodel.layers[2].activation is approximate_gelu
    report = tflite_export.export(qmodel, tmp_path / "gelu.tflite", samples=x, verbose=False)
    assert report.mismatches == 0
