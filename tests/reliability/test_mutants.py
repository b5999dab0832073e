"""Damaged and hostile files end in `InvalidFileError`, quickly, and in little memory.

`MUTANTS=5000 python -m pytest -n 0 -m "" tests/reliability/test_mutants.py` draws more of each.
Of each of the three formats 5,000 were drawn, without another error. About half of the `.keras`
files are read, as one without the entry `seed: null` is. Each took below 0.7 s of the processor.
"""

import collections
import cProfile
import json
import os
import random
import resource
import time
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

import keras_qat
from keras_qat import InvalidFileError
from keras_qat.integer import GraphFileError, load_graph, run, save_graph
from tests.mutants import (
    change_graph_member,
    with_changed_bytes,
    with_changed_json,
    with_changed_member,
)
from tests.reliability.tiny import new_model
from tests.tflite_export.graphs import random_codes, small_network
from tflite_export import export
from tflite_export.file.stored_graph import StoredGraph
from tflite_export.file.writer import read_model, write_model
from tflite_export.ops.emit_model import emit_model

MUTANTS = int(os.environ.get("MUTANTS", "1000"))
KERAS_MUTANTS = int(os.environ.get("MUTANTS", "100"))  # Keras takes a tenth of a second for each
LIMIT = 2**26
MOST_SECONDS = 5.0


def outcomes(mutants, read, allowed):
    """How often each outcome was, after checks of time and memory."""
    found = collections.Counter()
    for mutant in mutants:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        try:
            read(mutant)
        except allowed as error:
            found[type(error).__name__] += 1
        else:
            found["read"] += 1
        assert time.process_time() - start < MOST_SECONDS
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 < 4 * LIMIT
    return found


def test_saved_graphs(tmp_path):
    path, draws = tmp_path / "net.npz", random.Random(0)
    graph = small_network()
    save_graph(graph, path)
    whole, codes = path.read_bytes(), random_codes(graph, 1)

    def mutants():
        for number in range(MUTANTS):
            if number % 3:
                yield with_changed_member(whole, draws, change_graph_member)
            else:
                yield with_changed_bytes(whole, draws)

    def read(mutant):
        path.write_bytes(mutant)
        loaded = load_graph(path, max_bytes=LIMIT)
        same = all(
            loaded.tensors[name].shape == graph.tensors[name].shape
            for name in graph.inputs
            if name in loaded.tensors
        )
        if same and loaded.inputs == graph.inputs:
            run(loaded, codes)

    found = outcomes(mutants(), read, GraphFileError)
    assert found["GraphFileError"] > MUTANTS / 2


def test_tflite_files(tmp_path):
    path, draws = tmp_path / "net.tflite", random.Random(0)
    export(small_network(), path, verbose=False)
    whole = path.read_bytes()
    mutants = (with_changed_bytes(whole, draws) for _ in range(MUTANTS))
    found = outcomes(mutants, read_model, InvalidFileError)
    assert found["InvalidFileError"] > MUTANTS / 20


def test_a_tflite_file_whose_parts_overlap_ends_at_once(tmp_path):
    """One of 5,000 mutants. Unpacking it took longer than anybody waited."""
    path, draws = tmp_path / "net.tflite", random.Random(0)
    export(small_network(), path, verbose=False)
    whole = path.read_bytes()
    *_, mutant = (with_changed_bytes(whole, draws) for _ in range(2732))
    outcomes([mutant], read_model, InvalidFileError)


def test_a_tflite_file_is_read_under_a_profiler_too():
    data = write_model(emit_model(StoredGraph(small_network())))
    with cProfile.Profile() as profiler:
        found = read_model(data)
    assert found.outputs
    assert profiler.getstats()


def _change_keras_member(name, data, draws):
    if name.endswith(".json"):
        return with_changed_json(data, draws)
    return with_changed_bytes(data, draws)


@pytest.mark.filterwarnings("ignore")
def test_keras_files(tmp_path):
    path, draws = tmp_path / "net.keras", random.Random(0)
    new_model("lsq").save(path)
    whole = path.read_bytes()

    def mutants():
        for number in range(KERAS_MUTANTS):
            if number % 4:
                yield with_changed_member(whole, draws, _change_keras_member)
            else:
                yield with_changed_bytes(whole, draws)

    def read(mutant):
        path.write_bytes(mutant)
        keras_qat.load_model(path, max_bytes=LIMIT)

    found = outcomes(mutants(), read, InvalidFileError)
    assert found["InvalidFileError"] > KERAS_MUTANTS / 4


def test_an_archive_that_unpacks_to_too_much_is_not_read(tmp_path):
    path = tmp_path / "net.npz"
    save_graph(small_network(), path)
    with pytest.raises(GraphFileError, match=r"at most 100 are read.*raise the limit"):
        load_graph(path, max_bytes=100)
    assert load_graph(path, max_bytes=path.stat().st_size * 100)
    with np.load(path) as arrays:
        np.savez(path, **dict(arrays), unused=np.zeros(4, np.int8))
    with pytest.raises(GraphFileError, match="names its array 'unused'"):
        load_graph(path)


def _with_array(path, name, shape, held):
    """Adds an array of bytes that states a shape and holds that many zeros, packed."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as to:
        head = {"descr": "|i1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(to, head)
        to.write(bytes(held))


@pytest.mark.parametrize(
    ("name", "shape", "held", "message"),
    [
        ("unused.npy", (2**25,), 2**25, r"unpacks to 33,\d*,\d* bytes, and at most 1,048,576"),
        ("unused.npy", (10**12,), 0, "Nothing in the file names its array 'unused'"),
        ("op0/weight.npy", (10**12,), 0, r"states int8 of shape \(1000000000000,\), and has 0 b"),
    ],
)
def test_nothing_is_unpacked_beyond_the_limit(tmp_path, name, shape, held, message):
    whole, path = tmp_path / "whole.npz", tmp_path / "net.npz"
    save_graph(small_network(), whole)
    with np.load(whole) as arrays:
        np.savez(path, **{key: arrays[key] for key in arrays if f"{key}.npy" != name})
    _with_array(path, name, shape, held)
    tracemalloc.start()
    try:
        with pytest.raises(GraphFileError, match=message):
            load_graph(path, max_bytes=2**20)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_a_model_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "net.keras"
    new_model("lsq").save(path)
    with pytest.raises(InvalidFileError, match=r"at most 100 are read.*raise the limit"):
        keras_qat.load_model(path, max_bytes=100)
    assert keras_qat.load_model(path, max_bytes=2**20)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_a_grid_that_is_no_number_is_refused(tmp_path):
    qmodel = new_model("lsq")
    name, quantizer = next(iter(qmodel.named_quantizers.items()))
    for variable in quantizer.variables:
        variable.assign(np.full(variable.shape, np.nan))
    qmodel.save(tmp_path / "net.keras")
    with pytest.raises(InvalidFileError, match=f"step is no positive number, in '{name}'"):
        keras_qat.load_model(tmp_path / "net.keras")


@pytest.mark.parametrize(
    ("place", "changed", "message"),
    [
        ({"input_shape": [6, 4]}, {"shape": [6, 4]}, "not state what 'first/weights' quantizes"),
        ({"qmin": -127, "qmax": 127, "step": 1}, [[]], r"A grid has whole codes.*: \[\[\]\]"),
    ],
)
def test_a_grid_that_the_file_does_not_state_is_refused(tmp_path, place, changed, message):
    """Keras builds a layer from the shapes in its file, and says nothing where there are none."""
    path = tmp_path / "net.keras"
    new_model("lsq").save(path)
    text, wrong = json.dumps(place).encode(), json.dumps(changed).encode()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert text in members["config.json"]
    members["config.json"] = members["config.json"].replace(text, wrong, 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(InvalidFileError, match=message), warnings.catch_warnings(action="ignore"):
        keras_qat.load_model(path)


@pytest.mark.filterwarnings("ignore")
def test_a_quantizer_that_reads_two_tensors_is_refused(tmp_path):
    path = tmp_path / "net.keras"
    new_model("lsq").save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    tree = json.loads(members["config.json"])
    (layer,) = (each for each in tree["config"]["layers"] if each["name"] == "first_relu_quantizer")
    (read,) = layer["inbound_nodes"][0]["args"]
    layer["inbound_nodes"][0]["args"] = [read, read]
    members["config.json"] = json.dumps(tree).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(InvalidFileError, match="connects layers as quantize never does"):
        keras_qat.load_model(path)
