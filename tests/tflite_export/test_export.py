"""`export` as users call it: graphs, trained models, limits, and what happens to the file."""

import dataclasses
import json
import os

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, IntegerGraph, QuantParams, ops, run
from keras_qat.integer.headroom import add_headroom
from tests.tflite_export.graphs import small_network
from tflite_export import ExportError, Report, VerificationError, export
from tflite_export.proof import verification as verification_module


class TrainedModel:
    """Stands for a trained Keras model: rounds once, in float32, and lies where told to."""

    def __init__(self, graph: IntegerGraph, lie=lambda codes: codes):
        self.graph = graph
        self.lie = lie

    def to_integer(self) -> IntegerGraph:
        return self.graph

    def layer_codes(self, x):
        if not isinstance(x, dict):
            x = {self.graph.inputs[0]: x}
        codes = {n: self.graph.tensors[n].qparams.quantize(x[n]).astype(np.int8) for n in x}
        fine_biases = add_headroom(self.graph)
        return self.lie(run(fine_biases, codes, "xnnpack", keep_all=True))


@pytest.fixture
def graph() -> IntegerGraph:
    return small_network()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(150, 9, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("target", ["litert", "tflm"])
@pytest.mark.parametrize("io_dtype", ["int8", "float32"])
def test_a_graph_is_written_and_proven(graph, tmp_path, target, io_dtype, capsys):
    path = tmp_path / "net.tflite"
    report = export(graph, path, target=target, io_dtype=io_dtype, verbose=2)
    assert isinstance(report, Report)
    assert path.stat().st_size == report.file_bytes
    assert [result.differing for result in report.verifications] == [0] * len(report.verifications)
    assert report.comparison is None
    assert any("QUANTIZE" in limit for limit in report.limits) == (io_dtype == "float32")
    assert capsys.readouterr().out.strip() == report.render().strip()
    assert os.listdir(tmp_path) == ["net.tflite"]


def test_a_trained_model_is_compared_end_to_end(graph, tmp_path, images):
    report = export(TrainedModel(graph), tmp_path / "net.tflite", samples=images, verbose=False)
    comparison = report.comparison
    assert (comparison.profile, comparison.samples) == ("xnnpack-x86", 150)
    assert [tensor.name for tensor in comparison.tensors] == [op.output for op in graph.ops]
    assert comparison.flip_rate == 0.0
    assert comparison.argmax_agreement == 1.0
    assert report.verifications[0].samples == 150


def test_double_rounding_shows_in_the_comparison(graph, tmp_path, images):
    report = export(
        TrainedModel(graph),
        tmp_path / "net.tflite",
        target="tflm",
        samples=images,
        verbose=False,
    )
    assert report.comparison.profile == "tflm"
    assert 0 < report.comparison.flip_rate < 0.01
    assert report.comparison.max_difference >= 1


def test_the_loss_of_int4_is_predicted_and_measured(graph, tmp_path, images):
    options = {"target": "tflm", "samples": images, "max_flip_rate": 1.0, "verbose": False}
    path = tmp_path / "net.tflite"
    report = export(TrainedModel(graph), path, weight_storage="int4", **options)
    (loss,) = (limit for limit in report.limits if "INT4" in limit)
    worst = max(report.weights, key=lambda weight: weight.predicted_flip_rate)
    (measured,) = (t.rate for t in report.comparison.tensors if t.name == worst.name)
    assert f"{worst.predicted_flip_rate:.2%} of the elements are predicted" in loss
    assert f"({measured:.2%} measured" in loss
    assert measured > 0


def test_a_trained_model_without_samples_uses_random_ones(graph, tmp_path):
    report = export(TrainedModel(graph), tmp_path / "net.tflite", verbose=False)
    assert report.comparison.samples == 32


def flip_layer(codes):
    """Flips many elements, evenly over channels."""
    flips = np.random.default_rng(0).uniform(size=codes["sum"].shape) < 0.4
    codes["sum"] = (codes["sum"] + (flips & (codes["sum"] < 127))).astype(np.int8)
    return codes


def rotate_outputs(codes):
    codes["probabilities"] = np.roll(codes["probabilities"], 1, axis=-1)
    return codes


def test_too_many_flips_leave_no_file(graph, tmp_path, images):
    model = TrainedModel(graph, flip_layer)
    with pytest.raises(ExportError, match=r"where each layer runs alone.* worst is 'sum'"):
        export(model, tmp_path / "net.tflite", samples=images[:8], verbose=False)
    assert os.listdir(tmp_path) == []


def test_a_limit_on_flips_end_to_end(graph, tmp_path, images):
    options = {"target": "tflm", "samples": images, "verbose": False}
    export(TrainedModel(graph), tmp_path / "net.tflite", **options)
    with pytest.raises(ExportError, match=r"max_flip_rate=1e-06 is exceeded: .* worst is "):
        export(TrainedModel(graph), tmp_path / "net.tflite", max_flip_rate=1e-6, **options)


def test_other_answers_leave_no_file(graph, tmp_path, images):
    model = TrainedModel(graph, rotate_outputs)
    with pytest.raises(ExportError, match=r"min_argmax_agreement=0\.99 is missed: 0\.?\d* of 8"):
        export(model, tmp_path / "net.tflite", samples=images[:8], max_flip_rate=1, verbose=False)
    assert os.listdir(tmp_path) == []


def test_random_samples_have_no_winner_to_agree_on(graph, tmp_path):
    model = TrainedModel(graph, rotate_outputs)
    report = export(model, tmp_path / "net.tflite", max_flip_rate=1, verbose=False)
    assert report.comparison.argmax_agreement < 0.99


def test_wider_limits_let_the_same_model_pass(graph, tmp_path, images):
    report = export(
        TrainedModel(graph, flip_layer),
        tmp_path / "net.tflite",
        samples=images[:8],
        max_flip_rate=1.0,
        verbose=False,
    )
    worst = {tensor.name: tensor for tensor in report.comparison.tensors}["sum"]
    assert worst.rate > 0.1
    assert worst.max_difference == 1


def test_a_failed_export_leaves_the_old_file(graph, tmp_path, images):
    path = tmp_path / "net.tflite"
    path.write_bytes(b"precious")
    with pytest.raises(ExportError, match="max_flip_rate"):
        export(
            TrainedModel(graph, flip_layer),
            path,
            samples=images[:8],
            max_flip_rate=0.01,
            verbose=False,
        )
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["net.tflite"]


def test_a_failed_verification_leaves_no_file(graph, tmp_path, monkeypatch):
    true_run = verification_module.run_tflm

    def lying_run(*arguments):
        values = true_run(*arguments)
        values["expand"][0, 0, 0, 0] ^= 1
        return values

    monkeypatch.setattr(verification_module, "run_tflm", lying_run)
    with pytest.raises(VerificationError, match="'expand': 1 of 1024 elements, by up to 1"):
        export(graph, tmp_path / "net.tflite", target="tflm", verbose=False)
    assert os.listdir(tmp_path) == []


def test_a_failed_rename_leaves_nothing_behind(graph, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("read-only")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="read-only"):
        export(graph, tmp_path / "net.tflite", verify=False, verbose=False)
    assert os.listdir(tmp_path) == []


def test_verification_can_be_turned_off(graph, tmp_path):
    report = export(graph, tmp_path / "net.tflite", verify=False, verbose=False)
    assert report.verifications == ()
    assert "Not verified" in report.render()


def test_layer_codes_must_hold_the_ends(graph, tmp_path, images):
    model = TrainedModel(graph, lambda codes: {"image": codes["image"]})
    with pytest.raises(ValueError, match=r"no codes for \['mean', 'probabilities'\]"):
        export(model, tmp_path / "net.tflite", samples=images, verbose=False)


def test_ops_that_only_move_integers_need_no_codes(tmp_path):
    builder = GraphBuilder()
    grid = QuantParams(np.float32(0.1))
    x = builder.add_input("x", (1, 4), grid)
    x = builder.add(ops.Maximum((x,), "low", -5), QuantParams(grid.scale, 0, -5, 127))
    x = builder.add(ops.Reshape((x,), "y", (2, 2)), QuantParams(grid.scale, 0, -5, 127))
    model = TrainedModel(builder.build((x,)), lambda codes: {"x": codes["x"]})
    report = export(model, tmp_path / "net.tflite", verbose=False)
    assert report.comparison.tensors == ()
    assert report.comparison.argmax_agreement == 1.0


def test_flips_are_predicted_for_double_rounding(tmp_path):
    generator = np.random.default_rng(0)
    scale = generator.uniform(0.02, 0.03, 64).astype(np.float32)
    weight_grid = QuantParams(scale, 0, -3, 3, 0)
    values = generator.integers(-3, 4, (64, 64)).astype(np.int8)
    builder = GraphBuilder()
    x = builder.add_input("x", (1, 64), QuantParams(np.float32(1.0)))
    op = ops.FullyConnected((x,), "y", ops.QuantizedArray(values, weight_grid), np.zeros(64))
    graph = builder.build((builder.add(op, QuantParams(np.float32(1.0))),))

    tflm, litert = (
        export(graph, tmp_path / "n.tflite", target=target, verify=False, verbose=False).weights[0]
        for target in ("tflm", "litert")
    )
    assert litert.predicted_flip_rate == 0.0
    codes = generator.integers(-128, 128, (4000, 64)).astype(np.int8)
    fine = add_headroom(graph)
    twice, once = (run(fine, codes, profile)["y"] for profile in ("tflm", "xnnpack"))
    # 256,000 elements flip about 250 times: five standard deviations are a third of that.
    measured = np.count_nonzero(twice != once) / twice.size
    assert abs(measured / tflm.predicted_flip_rate - 1) < 1 / 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "net.bin"}, "must end in '.tflite'. Received: 'net.bin'"),
        ({"path": "nowhere/net.tflite"}, "folder does not exist"),
        ({"target": "onnx"}, "Unknown target"),
        ({"io_dtype": "int16"}, "must be one of 'int8', 'uint8', 'float32', .* Received: 'int16'"),
        ({"io_dtype": {"photo": "uint8"}}, r"\['image', .* Received: io_dtype for \['photo'\]"),
        ({"samples": np.zeros((2, 9, 8, 3))}, "must be int8"),
        ({"samples": np.zeros((0, 9, 8, 3), np.int8)}, "at least one example"),
        ({"samples": {"picture": 0}}, r"Received: \['picture'\]"),
        ({"model": object()}, "Received: object"),
        ({"model": "net.keras"}, "Received: str"),
    ],
)
def test_bad_arguments_are_named(graph, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    complete = {"model": graph, "path": "net.tflite", "verbose": False, **arguments}
    with pytest.raises(ValueError, match=message):
        export(complete.pop("model"), complete.pop("path"), **complete)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_file(graph, tmp_path):
    (tmp_path / "net.tflite").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        export(graph, tmp_path / "net.tflite", verbose=False)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 8, 9, 3)), "need the shape"),
        (np.zeros((0, 9, 8, 3)), "at least one"),
        (np.full((1, 9, 8, 3), np.nan), "finite"),
        ({"picture": np.zeros((1, 9, 8, 3))}, r"Received: \['picture'\]"),
    ],
)
def test_bad_samples_of_a_trained_model_are_named(graph, tmp_path, samples, message):
    with pytest.raises(ValueError, match=message):
        export(TrainedModel(graph), tmp_path / "net.tflite", samples=samples, verbose=False)


def test_samples_stay_on_a_narrow_grid(tmp_path):
    builder = GraphBuilder()
    grid = QuantParams(np.float32(0.1), 112, 112, 127)
    x = builder.add_input("x", (1, 4), grid)
    graph = builder.build((builder.add(ops.Reshape((x,), "y", (2, 2)), grid),))
    with pytest.raises(ValueError, match="integers from 112 to 127"):
        export(graph, tmp_path / "n.tflite", samples=np.zeros((1, 4), np.int8), verbose=False)
    with pytest.raises(ExportError, match="grid of 16 levels"):
        export(graph, tmp_path / "n.tflite", io_dtype="float32", verbose=False)
    for way_out in ("int8", "uint8"):
        report = export(graph, tmp_path / "n.tflite", io_dtype=way_out, verbose=False)
        assert (report.mismatches, report.io_dtype) == (0, way_out)


def test_to_integer_must_return_a_graph(graph, tmp_path):
    model = TrainedModel(graph)
    model.to_integer = lambda: None
    with pytest.raises(ValueError, match="must return an IntegerGraph"):
        export(model, tmp_path / "net.tflite")


def test_two_tensors_with_one_name_are_refused(graph, tmp_path):
    first = dataclasses.replace(graph.ops[0])
    builder = GraphBuilder()
    x = builder.add_input("conv/bias", (1, 9, 8, 3), graph.tensors["image"].qparams)
    op = dataclasses.replace(first, inputs=(x,))
    y = builder.add(op, graph.tensors["conv"].qparams)
    with pytest.raises(ExportError, match=r"share a name.*\['conv/bias'\]"):
        export(builder.build((y,)), tmp_path / "net.tflite", verbose=False)


def test_several_inputs(tmp_path):
    builder = GraphBuilder()
    grid = QuantParams(np.float32(0.1))
    names = tuple(builder.add_input(name, (1, 5), grid) for name in ("left", "right"))
    graph = builder.build((builder.add(ops.Add(names, "y"), QuantParams(np.float32(0.2))),))
    for target in ("litert", "tflm"):
        for io_dtype in ("int8", "float32"):
            export(graph, tmp_path / "n.tflite", target=target, io_dtype=io_dtype, verbose=False)
    samples = {name: np.ones((3, 5)) for name in names}
    report = export(TrainedModel(graph), tmp_path / "n.tflite", samples=samples, verbose=False)
    assert report.comparison.samples == 3
    with pytest.raises(ValueError, match=r"has 2 inputs.* Received samples for 1"):
        export(TrainedModel(graph), tmp_path / "n.tflite", samples=np.ones((3, 5)))


def test_the_report_travels_as_json_and_text(graph, tmp_path, images):
    report = export(
        TrainedModel(graph), tmp_path / "net.tflite", samples=images[:40], verbose=False
    )
    report.save_json(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["file_bytes"] == report.file_bytes
    assert content["verifications"][1]["elements"] == report.verifications[1].elements
    assert content["comparison"]["flip_rate"] == 0.0
    assert [entry["bits"] for entry in content["weights"]] == [4, 4, 4, 4]
    text = report.render()
    for part in ("DEPTHWISE_CONV_2D", "1x5x8x5", "headroom", "100.00% of 40 answers kept"):
        assert part in text
    assert max(map(len, text.splitlines())) < 260
