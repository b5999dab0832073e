"""Inputs and outputs of a file as int8, uint8 and float32, each by its name."""

import dataclasses

import numpy as np
import pytest

from keras_qat.integer import GraphBuilder, QuantParams, ops
from tests.tflite_export.float_networks import result_graph
from tflite_export import VerificationError, export, verify, write_micro
from tflite_export.file.runtimes import run_litert, run_tflm
from tflite_export.file.writer import read_model, write_model

RUNTIMES = {
    "litert_ref": lambda data, file, codes: run_litert(data, file, codes, reference=True),
    "xnnpack-x86": lambda data, file, codes: run_litert(data, file, codes, reference=False),
    "tflm": run_tflm,
}


def written(graph, folder, target="litert", **options):
    path = folder / "net.tflite"
    report = export(graph, path, target=target, verbose=False, **options)
    return path.read_bytes(), report


@pytest.mark.parametrize("profile", RUNTIMES)
def test_uint8_is_int8_plus_128_in_every_runtime(graph, codes, profile, tmp_path):
    target = "tflm" if profile == "tflm" else "litert"
    signed, unsigned = (
        written(graph, tmp_path, target, io_dtype=dtype)[0] for dtype in ("int8", "uint8")
    )
    file, bytes_in = read_model(signed), {"image": (codes["image"].view(np.uint8) ^ 0x80)}
    expected = RUNTIMES[profile](signed, file, codes)
    shifted = read_model(unsigned)
    found = RUNTIMES[profile](unsigned, shifted, bytes_in)
    for name in graph.outputs:
        actual = found[shifted.outputs[name]]
        assert actual.dtype == np.uint8
        assert (actual.astype(int) - 128).tolist() == expected[file.outputs[name]].tolist()


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_the_ends_of_a_file_say_their_grids(graph, target, tmp_path):
    scores, other = graph.outputs
    data, report = written(graph, tmp_path, target, io_dtype={"image": "uint8", scores: "float32"})
    file = read_model(data)
    ends = {name: file.tensors[end] for name, end in {**file.inputs, **file.outputs}.items()}
    grid = graph.tensors["image"].qparams
    assert {name: end.dtype for name, end in ends.items()} == {
        "image": "uint8",
        scores: "float32",
        other: "int8",
    }
    assert ends["image"].zero_point == grid.zero_point + 128
    assert ends["image"].scale.tolist() == [grid.scale.tolist()]
    first, last = file.operators[0], file.operators[-1]
    assert (first.code, first.outputs) == ("QUANTIZE", ("image",))
    assert (last.code, last.inputs) == ("DEQUANTIZE", (scores,))
    assert report.io_dtype == f"uint8 image, float32 {scores}, int8 {other}"
    assert report.mismatches == 0


@pytest.mark.parametrize("profile", ["litert_ref", "xnnpack-x86", "tflm"])
def test_the_proof_covers_the_ends(graph, profile, tmp_path):
    target = "tflm" if profile == "tflm" else "litert"
    _, report = written(graph, tmp_path, target, io_dtype="uint8")
    (found,) = (each for each in report.verifications if each.profile == profile)
    proven = {tensor.name for tensor in found.tensors}
    assert {"image", *(f"{name}/uint8_output" for name in graph.outputs)} <= proven


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zero_point": 3}, "states another grid for the end 'image/uint8_input'"),
        ({"scale": np.float32([0.5])}, "states another grid for the end 'image/uint8_input'"),
    ],
)
def test_a_file_with_another_grid_at_its_end_is_refused(graph, codes, change, message, tmp_path):
    data, _ = written(graph, tmp_path, io_dtype="uint8")
    file = read_model(data)
    end = dataclasses.replace(file.tensors["image/uint8_input"], **change)
    wrong = dataclasses.replace(file, tensors={**file.tensors, end.name: end})
    with pytest.raises(VerificationError, match=message):
        verify(graph, write_model(wrong), "litert", codes)


def test_a_file_with_another_input_is_refused(graph, codes, tmp_path):
    file = read_model(written(graph, tmp_path)[0])
    wrong = dataclasses.replace(file, inputs={"picture": "image"})
    with pytest.raises(VerificationError, match=r"than \['image'\]. Received: \['picture'\]"):
        verify(graph, write_model(wrong), "litert", codes)


def test_two_inputs_of_unlike_dtypes(tmp_path):
    builder = GraphBuilder()
    grid = QuantParams(np.float32(0.5), zero_point=4)
    names = tuple(builder.add_input(name, (1, 2), grid) for name in ("left", "right"))
    graph = builder.build((builder.add(ops.Add(names, "y"), grid),))
    for target in ("litert", "tflm"):
        data, report = written(graph, tmp_path, target, io_dtype={"right": "uint8"})
        assert report.mismatches == 0
        assert report.io_dtype == "int8 left, uint8 right, int8 y"
        file = read_model(data)
        assert [file.tensors[end].dtype for end in file.inputs.values()] == ["int8", "uint8"]


def test_what_is_on_no_grid_stays_as_it_is(tmp_path):
    graph = result_graph(QuantParams(np.float32(0.1)), QuantParams(np.float32(0.2)))
    (name,) = graph.outputs
    with pytest.raises(ValueError, match=f"{name!r} is on no grid, and stays float32. Leave it"):
        written(graph, tmp_path, io_dtype={name: "uint8"})
    assert written(graph, tmp_path, io_dtype={name: "float32"})[1].mismatches == 0


def test_firmware_holds_examples_in_the_dtype_of_the_ends(graph, codes, tmp_path):
    scores, other = graph.outputs
    dtypes = {"image": "uint8", scores: "float32"}
    firmware = write_micro(
        graph, tmp_path, name="net", io_dtype=dtypes, samples=codes, examples=2, verbose=False
    )
    assert firmware.report.mismatches == 0
    text = (tmp_path / "net_self_test.cc").read_text()
    arrays = [
        np.int8([int(value) for value in part.split("}")[0].replace("\n", " ").split(",")[:-1]])
        for part in text.split("[] = {\n")[1:]
    ]
    images = arrays[0].view(np.uint8).reshape(2, 9, 8, 3)
    assert np.array_equal(images, codes["image"][:2].view(np.uint8) ^ 0x80)
    data = (tmp_path / "net.tflite").read_bytes()
    legal = read_model(data)
    found = run_tflm(data, legal, {"image": images})
    assert arrays[1].view(np.float32).tolist() == found[legal.outputs[scores]].ravel().tolist()
    assert arrays[2].tolist() == found[legal.outputs[other]].ravel().tolist()
    assert "resolver.AddQuantize()" in (tmp_path / "net_ops.h").read_text()
