"""Saving and loading: exact, atomic, and clear about files that are none of ours."""

import json

import numpy as np
import pytest

from keras_qat.integer import GraphFileError, load_graph, run, save_graph
from tests.tflite_export.graphs import random_codes, small_network


def test_a_graph_survives_the_round_trip(tmp_path):
    graph = small_network()
    save_graph(graph, tmp_path / "net.npz")
    loaded = load_graph(tmp_path / "net.npz")
    assert loaded.inputs == graph.inputs
    assert loaded.outputs == graph.outputs
    assert dict(loaded.tensors) == dict(graph.tensors)
    assert [type(op) for op in loaded.ops] == [type(op) for op in graph.ops]
    codes = random_codes(graph)
    expected, actual = (run(g, codes, keep_all=True) for g in (graph, loaded))
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name])


def test_a_second_writing_is_identical_in_content(tmp_path):
    save_graph(small_network(), tmp_path / "one.npz")
    save_graph(load_graph(tmp_path / "one.npz"), tmp_path / "two.npz")
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert sorted(one) == sorted(two)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_nothing_is_left_beside_the_file(tmp_path):
    save_graph(small_network(), tmp_path / "net.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["net.npz"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.npz"
    path.write_bytes(b"precious")

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        save_graph(small_network(), path)
    assert path.read_bytes() == b"precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.npz"]


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_graph(tmp_path / "nothing.npz")


@pytest.mark.parametrize("length", [0, 1, 100, 1000])
def test_truncated_files_are_named(tmp_path, length):
    path = tmp_path / "net.npz"
    save_graph(small_network(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(GraphFileError, match=r"net\.npz is not a readable integer graph"):
        load_graph(path)


def test_text_is_not_a_graph(tmp_path):
    path = tmp_path / "notes.npz"
    path.write_text("hello")
    with pytest.raises(GraphFileError, match="not a readable integer graph"):
        load_graph(path)


def test_another_npz_is_not_a_graph(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, kernel=np.zeros(3))
    with pytest.raises(GraphFileError, match="not a readable integer graph"):
        load_graph(path)


def _rewrite(path, change):
    save_graph(small_network(), path)
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["header"].tobytes())
    change(header, arrays)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "saved by a newer keras_qat: its format is 99.*Update"),
        ({"format": "something else"}, "is not an integer graph.*'something else'"),
    ],
)
def test_another_format_or_version_is_named(tmp_path, change, message):
    _rewrite(tmp_path / "net.npz", lambda header, arrays: header.update(change))
    with pytest.raises(GraphFileError, match=message):
        load_graph(tmp_path / "net.npz")


@pytest.mark.parametrize(
    "change",
    [
        lambda header, arrays: arrays.pop("op0/weight"),
        lambda header, arrays: header["ops"][0].update(type="Conv3D"),
        lambda header, arrays: header["ops"][0].pop("weight"),
        lambda header, arrays: header["tensors"].pop(),
        lambda header, arrays: header["tensors"][0]["qparams"].update(scale=-1.0),
        lambda header, arrays: header.update(outputs=["nowhere"]),
        lambda header, arrays: header.pop("ops"),
        lambda header, arrays: header.update(ops=None),
        lambda header, arrays: header["ops"][0].update(inputs=["later"]),
        lambda header, arrays: arrays.update({"op0/bias": np.full(5, 1e30)}),
        lambda header, arrays: header["ops"][0].update(activation="linerr"),
        lambda header, arrays: header["ops"][0].update(padding="valfd"),
        lambda header, arrays: header["ops"][0].update(strides=[0, 0]),
        lambda header, arrays: header["ops"][0].update(dilation=[0, 0]),
        lambda header, arrays: header["ops"][0].update(dilation=[1, 1e-50]),
        lambda header, arrays: header["ops"][0].update(weight_bits="x"),
        lambda header, arrays: header["tensors"][0]["qparams"].update(zero_point="/abs"),
        lambda header, arrays: header["tensors"][0]["shape"].pop(),
        lambda header, arrays: header["tensors"][0].update(shape=[1, 0, 8, 3]),
        lambda header, arrays: header["tensors"][0].update(shape=[1, -9, 8, 3]),
    ],
)
def test_a_damaged_header_is_named(tmp_path, change):
    _rewrite(tmp_path / "net.npz", change)
    with pytest.raises(GraphFileError, match="not a readable integer graph"):
        load_graph(tmp_path / "net.npz")
