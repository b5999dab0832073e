"""The networks of the papers have their sizes, and none of their layers stays in float."""

import networks
import pytest

import keras_qat

SIZES = {
    networks.vgg_small: 4_663_690,
    networks.vgg16_bn: 14_732_490,
    networks.resnet20: 271_098,  # as the float model of GDNSQ's authors
    networks.resnet18: 11_699_112,
}


@pytest.mark.parametrize("network", SIZES, ids=lambda network: network.__name__)
def test_every_network_has_its_size_and_quantizes_as_a_whole(network):
    model = network()
    assert model.count_params() == SIZES[network]
    plan = keras_qat.plan(model, keras_qat.LSQConfig(weight_bits=2, activation_bits=2))
    assert plan.deploys
    assert not plan.unsupported
    assert not any(layer.in_float for layer in plan.layers)
    bits = [layer.weight_bits for layer in plan.layers if layer.weight_bits is not None]
    assert (bits[0], bits[-1], set(bits[1:-1])) == (8, 8, {2})


@pytest.mark.parametrize(
    ("network", "classes"), [(networks.resnet20, 100), (networks.vgg_small, 7)]
)
def test_the_number_of_classes_is_the_width_of_the_last_layer(network, classes):
    assert network(classes).output_shape == (None, classes)
