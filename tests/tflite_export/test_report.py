"""What people read of an export: four lines, then all of it, by their names and in their width."""

import re

import keras
import numpy as np
import pytest

import keras_qat
import tflite_export
from tests.tflite_export.graphs import small_network

layers = keras.layers
LONG = "expand_of_the_second_bottleneck_of_the_first_stage"
X = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype(np.float32)
Y = np.arange(64) % 3


@pytest.fixture(scope="module")
def qmodel():
    base = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Conv2D(4, 3, name="conv"), layers.ReLU(name="relu")],
        name="base",
    )
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Flatten(name="flatten")(layers.ReLU()(layers.Conv2D(4, 1, name=LONG)(base(inputs))))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    return keras_qat.quantize(model, keras_qat.LSQConfig(weight_bits=4), calibration_data=X)


@pytest.fixture(scope="module")
def report(qmodel, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "net.tflite"
    kind = {"outputs": {"head": "scores"}, "target": "tflm", "max_flip_rate": 1.0}
    return tflite_export.export(qmodel, path, samples=(X, Y), verbose=False, **kind)


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


def test_four_lines_say_file_size_worth_and_proof(report, wide):
    file, size, kept, proven = report.summary().splitlines()
    assert re.fullmatch(r"File    .*net\.tflite, for TensorFlow Lite Micro, int8 I/O", file)
    weights = sum(np.prod(each.shape) for each in report.weights)
    stored = sum(each.stored_bytes for each in report.weights)
    in_float, in_int8 = (report.file_bytes - stored + size * weights for size in (4, 1))
    assert size == (
        f"Size    {report.file_bytes:,} bytes; {in_float:,} with float32 weights, "
        f"{in_int8:,} with int8"
    )
    worth = report.worth
    assert kept == (
        f"Kept    accuracy {worth.of_file:.2%} (float {worth.of_float:.2%}, "
        f"trained {worth.of_trained:.2%}; 64 samples)"
    )
    assert proven == (
        f"Proven  0 of {report.compared_elements:,} elements differ in TensorFlow Lite Micro"
    )


def test_without_labels_the_ratio_to_the_float_model_counts(qmodel, tmp_path, wide):
    found = tflite_export.export(qmodel, tmp_path / "net.tflite", samples=X, verbose=False)
    (ratio,) = found.worth.file_sqnr.values()
    assert f"Kept    SQNR {ratio:.1f} dB against the float model (64 samples)" in found.summary()
    assert "differ in LiteRT's reference kernels and XNNPACK" in found.summary()


def test_without_samples_the_line_says_so(qmodel, tmp_path, wide):
    found = tflite_export.export(qmodel, tmp_path / "net.tflite", verbose=False, verify=False)
    assert "Kept    100.00% of the trained model's answers (32 random samples)" in found.summary()
    assert "Proven  nowhere: verify=False" in found.summary()


def test_more_lines_only_for_what_is_to_be_minded(tmp_path, wide):
    options = {"io_dtype": "float32", "verbose": False}
    found = tflite_export.export(small_network(), tmp_path / "net.tflite", **options)
    *_, kept, _, minded = found.summary().splitlines()
    assert kept == "Kept    not measured: a graph has no float model"
    assert minded.startswith("Mind: ")
    assert minded.removeprefix("Mind: ") in found.limits


@pytest.mark.parametrize(("verbose", "starts"), [(True, True), (1, True), (2, True), (0, False)])
def test_verbose_chooses_how_much_is_printed(verbose, starts, tmp_path, capsys, monkeypatch):
    found = tflite_export.export(small_network(), tmp_path / "net.tflite", verbose=verbose)
    text = capsys.readouterr().out
    assert text.startswith("File    ") == starts
    assert text.strip() == ("" if not starts else [found.summary(), found.render()][verbose == 2])


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(report, qmodel, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    texts = [report.summary(), report.render(), tflite_export.plan_memory(qmodel).render()]
    for text in texts:
        assert max(map(len, text.splitlines())) <= columns
        assert LONG in text or columns < 200 or text is texts[0]


def test_print_says_it_in_full(report, qmodel):
    for each in (report, tflite_export.plan_memory(qmodel)):
        assert str(each) == each.render()
        assert LONG in str(each)


def test_layers_have_the_names_of_the_model(report, qmodel):
    assert [each.layer for each in report.weights] == ["base/conv", LONG, "head"]
    plan = tflite_export.plan_memory(qmodel)
    assert [each.title for each in plan.weights] == ["base/conv", LONG, "head"]
    assert [row[0] for row in report.table_rows if row[4]] == ["base/conv", LONG, "head"]


def test_report_and_plans_are_tables(report, qmodel):
    for each in (report, qmodel.plan, tflite_export.plan_memory(qmodel)):
        assert each._repr_html_().count("<tr>") == 1 + len(each.table_rows)
        assert each.to_csv().count("\n") == 1 + len(each.table_rows)
        assert r"base/conv & " in each.to_latex()
