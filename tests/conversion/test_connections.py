"""Connections of layers: found without a change, apart between models, told by taught layers."""

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat import Output, Rule
from keras_qat.conversion.exact_inference import connections
from keras_qat.layer_rules.rule import Stage
from keras_qat.layer_rules.table import RULES
from keras_qat.lowering.activation import lower_relu
from keras_qat.quantizers import Grid
from tests.conversion.test_exact_inference import quantized
from tests.models import images, randomize
from tests.seams import op_differences

pytestmark = [pytest.mark.slow_beyond(1), pytest.mark.usefixtures("nothing_is_compiled")]

layers = keras.layers


def small(relu=None, bits=4):
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="conv")(inputs))
    x = (relu or layers.ReLU(name="relu"))(x)
    return quantized(randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x))), bits)


def test_finding_connections_changes_nothing():
    qmodel = small()
    before = {layer.name: dict(getattr(layer, "connections", {})) for layer in qmodel.layers}
    found = connections(qmodel)
    assert [(each.layer.name, type(each.told).__name__) for each in found] == [
        ("conv", "WeightAccumulator"),
        ("relu_quantizer", "WeightAccumulator"),
        ("bn", "FoldedAffine"),
        ("head", "WeightAccumulator"),
        ("head_quantizer", "WeightAccumulator"),
    ]
    assert found == connections(qmodel)
    after = {layer.name: dict(getattr(layer, "connections", {})) for layer in qmodel.layers}
    assert before == after


@pytest.mark.parametrize("part", ["conv", "bn", "relu_quantizer", "head_quantizer"])
def test_a_second_model_over_shared_layers_leaves_the_first_as_it_was(part):
    qmodel, x = small(), images(16, (8, 8, 3))
    expected = qmodel.get_layer("conv")(x), qmodel(x)
    encoder = keras_qat.QuantizedModel(qmodel.input, qmodel.get_layer(part).output)
    np.testing.assert_array_equal(qmodel.get_layer("conv")(x), expected[0])
    np.testing.assert_array_equal(qmodel(x), expected[1])
    probe = keras.Model(qmodel.input, qmodel.get_layer(part).output)
    np.testing.assert_array_equal(encoder(x), probe(x))


def test_a_layer_between_the_grids_of_two_models_is_refused_and_the_way_out_works():
    qmodel, x = small(), images(16, (8, 8, 3))
    expected = np.asarray(qmodel(x))

    def with_another_grid(model):
        quantizer = keras_qat.LSQActivationQuantizer(Grid.for_activations(8, True), name="other")
        return keras_qat.QuantizedModel(model.inputs, quantizer(model.get_layer("bn").output))

    with pytest.raises(ValueError, match=r"Layer 'conv' is shared with .*clone_model"):
        with_another_grid(qmodel)
    np.testing.assert_array_equal(qmodel(x), expected)
    clone = keras.models.clone_model(keras.Model(qmodel.inputs, qmodel.get_layer("bn").output))
    assert with_another_grid(clone).get_layer("conv").connections


def test_a_second_model_that_calls_a_shared_layer_twice_is_refused():
    """The layer cannot tell the two calls apart, and knows the grids of one of them."""
    inputs = keras.Input((8, 8, 3), name="image")
    conv = layers.Conv2D(3, 1, name="conv")
    qmodel = quantized(randomize(keras.Model(inputs, layers.ReLU(name="relu")(conv(inputs)))))
    x = images(16, (8, 8, 3))
    expected = np.asarray(qmodel(x))
    again = qmodel.get_layer("relu_quantizer")(qmodel.get_layer("conv")(qmodel.output))
    with pytest.raises(ValueError, match=r"Layer 'conv' is shared .*clone_model"):
        keras_qat.QuantizedModel(qmodel.inputs, again)
    np.testing.assert_array_equal(qmodel(x), expected)


def test_a_taught_activation_is_no_relu6():
    """A rule says where a layer cuts values off; without a word, nothing is assumed."""

    class Rectified(layers.Layer):
        def call(self, x):
            return keras.ops.relu(x)

    def accumulators(**clamp):
        join = frozenset({Stage.LINEAR})
        rule = Rule(Output.ROUND_TO_INPUT, lower_relu, joins=join, unsigned=True, **clamp)
        keras_qat.register_rule(Rectified, rule)
        try:
            qmodel = small(Rectified(name="relu"))
            x = images(16, (8, 8, 3)) * 20  # far beyond 6
            differences = op_differences(qmodel.to_integer(), qmodel.layer_codes(x))
            assert all(each.largest <= 1 for each in differences), differences
            assert qmodel.get_layer("conv").connections[0].ceiling is None
            return qmodel.get_layer("relu_quantizer").accumulators
        finally:
            del RULES[Rectified]

    assert not accumulators()
    assert accumulators(ceiling=np.inf)[0].ceiling is None


def test_a_taught_map_that_joins_is_not_taken_for_a_normalization():
    class Doubled(layers.Layer):
        def call(self, x):
            return 2.0 * x

    def lower(layer, operands, context):
        ones = np.ones(context.output_shape[-1])
        return operands[0].affine(2.0 * ones, 0.0 * ones)

    join = frozenset({Stage.LINEAR})
    rule = Rule(Output.QUANTIZE, lower, yields=Stage.LINEAR, joins=join)
    keras_qat.register_rule(Doubled, rule)
    try:
        qmodel = small(Doubled(name="relu"))
        assert not qmodel.get_layer("conv").connections
        x = images(16, (8, 8, 3))
        differences = op_differences(qmodel.to_integer(), qmodel.layer_codes(x))
        assert all(each.largest <= 1 for each in differences), differences
    finally:
        del RULES[Doubled]
