"""What a file says of itself, read back by TensorFlow's own reader of metadata."""

import io
import json
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops
from tests.tflite_export.graphs import small_network
from tflite_export import Metadata, export, predict
from tflite_export.file.writer import read_model

IMAGES = np.random.default_rng(0).normal(size=(4, 9, 8, 3)).astype(np.float32)
CLASSES = [f"class {index}" for index in range(7)]
FULL = Metadata(
    name="Small",
    description="A network for tests.",
    author="keras_qat",
    version="2",
    license="Apache-2.0",
    labels={"probabilities": CLASSES},
    normalization=((1, 2, 3), 127.5),
    colors="rgb",
    threshold={"probabilities": 0.25},
    descriptions={"image": "A photo."},
)
READER = """
import ctypes, json, sys
sys.modules["tensorflow"] = None  # the reader takes it for remote files alone
import libusb_package
ctypes.CDLL(str(libusb_package.get_library_path()), ctypes.RTLD_GLOBAL)
from tensorflow_lite_support.metadata.cc.python import _pywrap_metadata_version as version
from tensorflow_lite_support.metadata.python import metadata
found = metadata.MetadataDisplayer.with_model_file(sys.argv[1])
names = found.get_packed_associated_file_list()
print(json.dumps({
    "metadata": json.loads(found.get_metadata_json()),
    "files": {name: found.get_associated_file_buffer(name).decode() for name in names},
    "needs": version.GetMinimumMetadataParserVersion(found.get_metadata_buffer()),
}))
"""
PACKAGES = ["tflite-support==0.4.4", "libusb-package", "importlib_resources"]


@pytest.fixture(scope="module")
def reader():
    """Calls the reader of TensorFlow Lite Support, which lies in a folder of its own."""
    folder = pathlib.Path.home() / ".cache" / "keras_qat" / "tflite_support"
    if not (folder / "tflite_support").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
        made = subprocess.run([*command, *PACKAGES], capture_output=True, text=True)
        if made.returncode:
            why = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"tflite-support 0.4.4 cannot be installed here: {why}")

    def read(path):
        program = f"import sys; sys.path.append({str(folder)!r})\n{READER}"
        result = subprocess.run([sys.executable, "-c", program, path], capture_output=True)
        assert result.returncode == 0, result.stderr.decode()
        return json.loads(result.stdout)

    return read


def written(folder, metadata, graph=None, **options):
    path = folder / "net.tflite"
    report = export(graph or small_network(), path, metadata=metadata, verbose=False, **options)
    assert report.mismatches == 0
    assert report.compared_elements > 0
    assert report.file_bytes == path.stat().st_size
    return path


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_an_independent_reader_sees_every_field(reader, target, tmp_path):
    found = reader(written(tmp_path, FULL, target=target))
    assert found["files"] == {"labels.txt": "\n".join(CLASSES)}
    assert found["needs"] == found["metadata"]["min_parser_version"]
    (subgraph,) = found["metadata"].pop("subgraph_metadata")
    assert found["metadata"] == {
        "name": "Small",
        "description": "A network for tests.",
        "version": "2",
        "author": "keras_qat",
        "license": "Apache-2.0",
        "min_parser_version": "1.0.0",
    }
    (image,) = subgraph["input_tensor_metadata"]
    scores, mean = subgraph["output_tensor_metadata"]
    assert image == {
        "name": "image",
        "description": "A photo.",
        "content": {
            "content_properties_type": "ImageProperties",
            "content_properties": {
                "color_space": "RGB",
                "default_size": {"width": 8, "height": 9},
            },
        },
        "process_units": [
            {
                "options_type": "NormalizationOptions",
                "options": {"mean": [1.0, 2.0, 3.0], "std": [127.5]},
            }
        ],
        "stats": {"max": [2.64], "min": [-2.46]},
    }
    assert scores["name"] == "probabilities"
    assert scores["description"] == "Scores: the largest along the last axis decides."
    assert scores["associated_files"] == [
        {
            "name": "labels.txt",
            "description": "Labels along the last axis of probabilities.",
            "type": "TENSOR_AXIS_LABELS",
        }
    ]
    assert scores["process_units"] == [
        {
            "options_type": "ScoreThresholdingOptions",
            "options": {"global_score_threshold": 0.25},
        }
    ]
    assert scores["stats"] == {"max": [0.996094], "min": [0.0]}
    assert mean["name"] == "mean"
    assert "associated_files" not in mean


@pytest.mark.slow
def test_labels_of_several_outputs_and_of_indices(reader, tmp_path):
    builder, grid = GraphBuilder(), QuantParams(np.float32(0.1))
    x = builder.add_input("x", (1, 4), grid)
    winner = builder.add(ops.ArgMax((x,), "winner", 1), grid)
    same = builder.add(ops.Maximum((x,), "same", -128), grid)
    graph = builder.build((winner, same))
    given = {"winner": ["a", "b", "c", "d"], "same": ["e", "f", "g", "h"]}
    kinds = {"same": "values"}
    found = reader(written(tmp_path, Metadata(labels=given), graph, outputs=kinds))
    assert found["files"] == {"labels_winner.txt": "a\nb\nc\nd", "labels_same.txt": "e\nf\ng\nh"}
    outputs = found["metadata"]["subgraph_metadata"][0]["output_tensor_metadata"]
    assert [each["associated_files"][0]["type"] for each in outputs] == [
        "TENSOR_VALUE_LABELS",
        "TENSOR_AXIS_LABELS",
    ]
    assert outputs[1]["description"] == "Values, to be read as numbers."


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_the_network_is_the_same_with_metadata_and_without(target, tmp_path):
    options = {"target": target, "weight_storage": "int8", "io_dtype": "float32"}
    plain, said = (written(tmp_path, each, **options).read_bytes() for each in (None, FULL))
    buffer = read_model(said).metadata["TFLITE_METADATA"]
    assert buffer[4:8] == b"M001"
    assert read_model(plain).metadata == {}
    assert list(read_model(said).outputs) == ["probabilities", "mean"]  # names of the signature
    with zipfile.ZipFile(io.BytesIO(said)) as archive:
        (entry,) = archive.infolist()
        assert (entry.filename, entry.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.read("labels.txt").decode() == "\n".join(CLASSES)
    for name, data in (("plain", plain), ("said", said)):
        (tmp_path / f"{name}.tflite").write_bytes(data)
    for runtime in ("litert", "tflm"):
        answers = [
            predict(tmp_path / f"{name}.tflite", IMAGES, runtime=runtime)
            for name in ("plain", "said")
        ]
        for output in ("probabilities", "mean"):
            np.testing.assert_array_equal(answers[0][output], answers[1][output])


def test_equal_metadata_gives_equal_bytes(tmp_path):
    assert written(tmp_path, FULL).read_bytes() == written(tmp_path, FULL).read_bytes()


def test_labels_may_come_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(CLASSES) + "\n")
    metadata = Metadata(labels={"probabilities": tmp_path / "names.txt"})
    data = written(tmp_path, metadata).read_bytes()
    assert zipfile.ZipFile(io.BytesIO(data)).read("labels.txt").decode() == "\n".join(CLASSES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": CLASSES}, r"labels of a model with \['probabilities', 'mean'\] is a dict"),
        ({"labels": {"other": CLASSES}}, r"labels is by the names .* for \['other'\]"),
        ({"labels": {"mean": CLASSES}}, "'mean' needs 5 labels, .* Received: 7 labels"),
        ({"labels": {"mean": ["a", "b", "c", "d", "e\nf"]}}, "'mean' are strings of one line"),
        ({"labels": {"mean": ["a", "b", "c", "d", ""]}}, "'mean' are strings of one line"),
        ({"colors": "cmyk"}, r"one of \['rgb', 'grayscale'\]. Received: 'cmyk'"),
        ({"colors": "grayscale"}, r"\(height, width, 1\). Received: \(9, 8, 3\)"),
        ({"normalization": 127.5}, r"is \(mean, std\). Received: 127.5"),
        ({"normalization": ((1, 2), 3)}, "one or 3 of each"),
        ({"normalization": (0, 0)}, "positive stds"),
        ({"descriptions": {"photo": "?"}}, r"descriptions for \['photo'\]"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=f"Metadata: .*{message}"):
        written(tmp_path, Metadata(**fields))
    assert list(tmp_path.iterdir()) == []


def test_a_dict_is_no_metadata(tmp_path):
    with pytest.raises(ValueError, match=r"must be a tflite_export\.Metadata.*Received: dict"):
        export(small_network(), tmp_path / "net.tflite", metadata={"name": "x"}, verbose=False)
