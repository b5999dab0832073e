"""The summary of a quantized model: its layers by their names, with bits and bytes."""

import pytest

import keras_qat
from tests.models import images, residual_network


@pytest.fixture(scope="module")
def trained():
    config = keras_qat.LSQConfig(weight_bits=2, activation_bits=4)
    return keras_qat.quantize(residual_network(), config, calibration_data=images(16))


def rows_of_the_summary(model, **options):
    """The cells of each row by the layer, and the lines around them."""
    texts = []
    model.summary(print_fn=texts.append, line_length=120, **options)
    (text,) = texts
    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    cells = {name.split(" (")[0].strip(): [cell.strip() for cell in row] for name, *row in rows}
    return cells, text


def test_the_summary_has_bits_and_bytes_of_every_layer(trained):
    rows, text = rows_of_the_summary(trained)
    assert 'Model: "residual"' in text
    assert "head (Dense)" in text
    planned = {each.name: each for each in trained.plan.layers}
    for name, (_, _, weights, activations, size) in rows.items():
        layer = planned.get(name)
        assert weights == str((layer and layer.weight_bits) or "")
        on_8_bits = layer is None or name == "head_softmax"
        assert activations == ("8" if on_8_bits else str(layer.output_bits or ""))
        assert size == ("" if not weights else f"{layer.litert_bytes / 1024:.2f}")
    assert len(rows) == 1 + len(planned)  # the input
    total = sum(each.litert_bytes for each in planned.values()) / 1024
    assert f"Deployed weights and biases: {total:.2f} KB, for LiteRT" in text
    assert f"Total params: {trained.count_params():,} (" in text


def test_the_summary_says_how_far_learned_widths_are():
    config = keras_qat.GDNSQConfig(weight_bits=3, activation_bits=4)
    model = keras_qat.quantize(residual_network(), config, calibration_data=images(64))
    rows, _ = rows_of_the_summary(model, show_trainable=True)
    assert rows["conv"][2:4] == ["10.0 to 3", ""]
    assert {row[-1] for row in rows.values()} == {"yes"}
    for width in model.learned_widths:
        width.narrow()
    assert rows_of_the_summary(model)[0]["conv"][2] == "3"


def test_a_layer_range_prints_the_table_of_keras(trained):
    texts = []
    trained.summary(
        print_fn=lambda text, **_: texts.append(text), layer_range=("stem", "stem_relu")
    )
    assert "Param #" in "".join(texts)
