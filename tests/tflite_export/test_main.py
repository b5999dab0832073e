"""The command line: one line on stderr and a status when something is wrong."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_qat
from keras_qat.integer import save_graph
from tests.tflite_export.graphs import random_codes, small_network
from tflite_export.file.writer import read_model


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tflite_export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def assert_one_line(result: subprocess.CompletedProcess[str], status: int, message: str) -> None:
    assert result.returncode == status, result.stderr
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.fixture
def source(tmp_path):
    save_graph(small_network(), tmp_path / "net.npz")
    return tmp_path / "net.npz"


@pytest.fixture(scope="module")
def float_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6, 6, 2)), keras.layers.Conv2D(8, 3), keras.layers.ReLU()]
    )


def test_a_graph_becomes_a_file(source, tmp_path):
    result = call(source, tmp_path / "net.tflite", "--target=tflm", "--io_dtype=float32")
    assert result.returncode == 0, result.stderr
    assert "elements differ in TensorFlow Lite Micro" in result.stdout
    assert (tmp_path / "net.tflite").read_bytes()[4:8] == b"TFL3"


def test_the_dtype_of_every_end_may_be_given(source, tmp_path):
    (name, other) = small_network().outputs
    ends = ["--io_dtype=image=uint8", f"--io_dtype={name}=float32"]
    result = call(source, tmp_path / "net.tflite", *ends)
    assert result.returncode == 0, result.stderr
    assert f"uint8 image, float32 {name}, int8 {other} I/O" in result.stdout
    wrong = call(source, tmp_path / "net.tflite", "--io_dtype=uint8", "--io_dtype=int8")
    assert_one_line(wrong, 2, "--io_dtype must be one dtype, or NAME=DTYPE. Received: 'uint8'")


def test_a_part_of_a_graph_becomes_a_file(source, tmp_path):
    inner = small_network().ops[0].output
    result = call(source, tmp_path / "part.tflite", f"--part={inner}")
    assert result.returncode == 0, result.stderr
    assert list(read_model((tmp_path / "part.tflite").read_bytes()).outputs) == [inner]
    wrong = call(source, tmp_path / "n.tflite", f"--part={inner}", f"--output={inner}=scores")
    assert_one_line(wrong, 2, "--part and --output: a part says by itself")


def test_a_graph_becomes_firmware(source, tmp_path):
    codes = random_codes(small_network(), samples=7)
    np.savez(tmp_path / "codes.npz", **codes)
    result = call(
        source,
        tmp_path / "net.tflite",
        "--target=tflm",
        "--weight_storage=lut",
        f"--samples={tmp_path / 'codes.npz'}",
        f"--report={tmp_path / 'report.json'}",
        f"--micro_dir={tmp_path / 'firmware'}",
        "--micro_name=net",
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verifications"][0]["samples"] == 7
    assert {weight["storage"] for weight in report["weights"]} == {"lut"}
    assert "net::kModel" in (tmp_path / "firmware" / "net_main.cc").read_text()
    assert "which is compact. " in result.stdout
    inside, outside = tmp_path / "firmware" / "net.tflite", tmp_path / "net.tflite"
    assert inside.stat().st_size < outside.stat().st_size


def test_a_trained_model_becomes_a_file(float_model, tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype(np.float32)
    config = keras_qat.LSQConfig(weight_bits=4, activation_bits=4)
    keras_qat.quantize(float_model, config, calibration_data=x).save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    destination = tmp_path / "net.tflite"
    result = call(tmp_path / "model.keras", destination, f"--samples={tmp_path / 'x.npy'}")
    assert result.returncode == 0, result.stderr
    assert "differ in LiteRT's reference kernels and XNNPACK" in result.stdout
    assert "of the trained model's answers (32 samples)" in result.stdout
    assert destination.read_bytes()[4:8] == b"TFL3"


def unknown_elsewhere(labels, outputs):
    """A loss that another process does not know."""
    return keras.ops.mean(outputs)


def test_labels_and_the_kind_of_an_output(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="classes")])
    x = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    qmodel = keras_qat.quantize(model, calibration_data=x)
    qmodel.compile("sgd", unknown_elsewhere)
    qmodel.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(32) % 3)
    result = call(
        tmp_path / "model.keras",
        tmp_path / "net.tflite",
        f"--samples={tmp_path / 'x.npy'}",
        f"--labels={tmp_path / 'y.npy'}",
        "--output=classes=scores",
        "--details",
    )
    assert result.returncode == 0, result.stderr
    assert "Output 'classes' (scores)" in result.stdout
    assert "accuracy" in result.stdout


def test_memory_is_planned_without_writing(source, tmp_path):
    result = call(source, "--plan")
    assert result.returncode == 0, result.stderr
    assert "Flash: " in result.stdout
    assert "RAM: " in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["net.npz"]


def test_help_teaches():
    result = call("--help")
    assert "python -m tflite_export MODEL OUT.tflite" in result.stdout
    assert "Exit status" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.npz", "net.tflite"], "missing.npz"),
        (["missing.keras", "net.tflite"], "no such file"),
        (["model.h5", "net.tflite"], "must be a .keras or an .npz file"),
        (["{source}", "net.bin"], "must end in '.tflite'"),
        (["{source}", "no/such/folder/net.tflite"], "folder does not exist"),
        (["{source}"], "usage: python -m tflite_export"),
        (["{source}", "net.tflite", "--micro_dir=x"], "--micro_dir needs --target=tflm"),
        (["{source}", "net.tflite", "--samples={text}"], "holds no arrays"),
        (["{source}", "net.tflite", "--output=classes"], "NAME=scores or NAME=values"),
    ],
)
def test_bad_usage_is_one_line(source, tmp_path, arguments, message):
    text = tmp_path / "text.npz"
    text.write_text("hello")
    result = call(*(a.format(source=source, text=text) for a in arguments))
    assert_one_line(result, 2, message)


def damaged(kind: str, source, float_model, tmp_path):
    """A file that is not, or no longer, what its name says."""
    if kind in ("foreign.npz", "truncated.npz"):
        whole = b"PK\x03\x04 something else" if kind == "foreign.npz" else source.read_bytes()
        (tmp_path / kind).write_bytes(whole[: len(whole) // 2])
    elif kind == "not_quantized.keras":
        float_model.save(tmp_path / kind)
    elif kind == "truncated.keras":
        float_model.save(tmp_path / kind)
        whole = (tmp_path / kind).read_bytes()
        (tmp_path / kind).write_bytes(whole[: len(whole) // 2])
    elif kind == "corrupt.keras":
        with zipfile.ZipFile(tmp_path / kind, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("metadata.json", "{}")
    elif kind == "other_class.keras":
        config = {"module": None, "class_name": "Mine", "config": {}, "registered_name": "a>Mine"}
        with zipfile.ZipFile(tmp_path / kind, "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("metadata.json", json.dumps({"keras_version": "3"}))
    else:
        (tmp_path / kind).write_text("hello")
    return tmp_path / kind


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("foreign.npz", "not a readable integer graph"),
        ("truncated.npz", "not a readable integer graph"),
        ("foreign.keras", "is not a Keras model, or is damaged"),
        ("truncated.keras", "is not a Keras model, or is damaged"),
        ("corrupt.keras", "not a readable Keras model"),
        ("other_class.keras", "Could not locate class 'Mine'. Make sure custom classes"),
        ("not_quantized.keras", "holds a Sequential without quantizers"),
        ("model.tflite", "must be a .keras or an .npz file"),
    ],
)
def test_a_damaged_source_is_one_line_and_the_old_file_stays(
    kind, message, source, float_model, tmp_path
):
    destination = tmp_path / "old.tflite"
    destination.write_bytes(b"mine")
    path = damaged(kind, source, float_model, tmp_path)
    assert_one_line(call(path, destination), 2, message)
    assert destination.read_bytes() == b"mine"


def test_a_refused_export_has_its_own_status(source, tmp_path):
    destination = tmp_path / "old.tflite"
    destination.write_bytes(b"mine")
    options = ["--target=tflm", "--weight_storage=int4", "--strict"]
    assert_one_line(call(source, destination, *options), 1, "strict=True refuses INT4")
    assert_one_line(call(source, destination, "--weight_storage=lut"), 1, "loads weights as int8")
    assert destination.read_bytes() == b"mine"
