"""The C++ sources: they compile without a warning, and their self-test counts what differs."""

import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from keras_qat.integer import ops, run
from tests.tflite_export.op_examples import one_of
from tflite_export import ExportError, plan_memory, write_micro
from tflite_export.file.runtimes import measure_arena
from tflite_export.file.writer import read_model
from tflite_export.legal.legalize import legalize
from tflite_export.targets import KERNELS, get_target

STAND_IN = pathlib.Path(__file__).parent / "micro_stand_in"
FLAGS = ["-std=c++17", "-DTF_LITE_STATIC_MEMORY"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
COMPILERS = {"g++": [], "arm-none-eabi-g++": ["-mcpu=cortex-m4", "-mthumb", "-fno-exceptions"]}
EXAMPLES = 3
README = "small_net_readme.md"


@pytest.fixture(scope="module")
def folder(graph, codes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("firmware") / "net"
    options = {"name": "small_net", "weight_storage": "lut", "verbose": False}
    write_micro(graph, folder, samples=codes, examples=EXAMPLES, **options)
    return folder


def compile_sources(compiler: str, folder: pathlib.Path, *options: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    sources = sorted(map(str, folder.glob("*.cc")))
    command = [compiler, *FLAGS, *WARNINGS, *COMPILERS[compiler], f"-I{STAND_IN}", f"-I{folder}"]
    command += [*options, *sources]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


@pytest.fixture(scope="module")
def program(folder):
    compile_sources("g++", folder, str(STAND_IN / "stand_in.cc"), "-o", "self_test")
    return folder / "self_test"


@pytest.fixture(scope="module")
def expected(graph, codes):
    """What TFLM answers on the examples, output by output."""
    legal = legalize(graph, get_target("tflm"), "lut").graph
    return run(legal, {name: array[:EXAMPLES] for name, array in codes.items()}, "tflm")


def answer(program, graph, answers, tmp_path) -> tuple[int, str, bytes]:
    """Runs the program with an interpreter that answers so, example by example."""
    sizes = []
    for names in (graph.inputs, graph.outputs):
        sizes += [len(names), *(int(np.prod(graph.tensors[n].shape)) for n in names)]
    head = " ".join(map(str, sizes)) + "\n"
    (tmp_path / "answers").write_bytes(head.encode() + answers)
    paths = {"STAND_IN_ANSWERS": tmp_path / "answers", "STAND_IN_INPUTS": tmp_path / "inputs"}
    environment = {**os.environ, **{key: str(path) for key, path in paths.items()}}
    result = subprocess.run([program], env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout, (tmp_path / "inputs").read_bytes()


def in_order(graph, arrays: dict[str, np.ndarray]) -> bytes:
    return b"".join(
        arrays[name][example].tobytes() for example in range(EXAMPLES) for name in graph.outputs
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_sources_compile_without_a_warning(compiler, folder):
    compile_sources(compiler, folder, "-c")


def test_the_self_test_agrees_with_true_answers(program, graph, codes, expected, tmp_path):
    status, said, seen = answer(program, graph, in_order(graph, expected), tmp_path)
    total = sum(array.size for array in expected.values())
    assert (status, said.split(";")[0]) == (0, f"0 of {total} integers differ")
    (name,) = graph.inputs
    assert seen == codes[name][:EXAMPLES].tobytes()


def test_the_self_test_counts_what_differs(program, graph, expected, tmp_path):
    wrong = {name: array.copy() for name, array in expected.items()}
    first, second = graph.outputs
    wrong[first][1].flat[0] += 1
    wrong[second][2].flat[:2] -= 3
    status, said, _ = answer(program, graph, in_order(graph, wrong), tmp_path)
    assert status == 1
    assert said.startswith("3 of ")


def test_all_of_an_example_that_does_not_run_differs(program, graph, expected, tmp_path):
    one = len(in_order(graph, expected)) // EXAMPLES
    status, said, _ = answer(program, graph, in_order(graph, expected)[:one], tmp_path)
    assert status == 1
    assert said.startswith(f"{2 * one} of ")


def test_the_arena_is_what_any_kernels_take_and_more(folder):
    header = (folder / "small_net_model.h").read_text()
    arena = int(re.search(r"kArenaSize = (\d+)", header)[1])
    data = (folder / "small_net.tflite").read_bytes()
    measured = measure_arena(data, read_model(data))
    rows = dict(re.findall(r"\| ([a-z0-9-]+) \| ([\d,]+) \|", (folder / README).read_text()))
    sizes = {name: int(size.replace(",", "")) for name, size in rows.items()}
    assert set(sizes) == set(KERNELS)
    assert sizes["reference"] == measured == min(sizes.values())
    assert arena % 16 == 0
    assert max(sizes.values()) * 1.1 <= arena < max(sizes.values()) * 1.1 + 16
    assert f"took {measured:,} bytes" in header


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_arena_is_for_the_kernels_that_are_told(kernels, graph, codes, tmp_path):
    options = {"weight_storage": "lut", "verbose": False, "kernels": kernels}
    firmware = write_micro(graph, tmp_path / "net", samples=codes, **options)
    plan = plan_memory(graph, "lut", kernels=kernels)
    reference = plan_memory(graph, "lut")
    more = plan.buffer_bytes - reference.buffer_bytes
    assert more >= 0
    wanted = 1.1 * (firmware.measured_arena_bytes + more)
    assert wanted <= firmware.arena_bytes < wanted + 16


def test_the_header_says_what_integers_stand_for(folder, graph):
    header = (folder / "small_net_model.h").read_text()
    for side, names in (("Input", graph.inputs), ("Output", graph.outputs)):
        body = re.search(rf"k{side}Grids\[\] = {{\n(.*?)\n}};", header, re.DOTALL)[1]
        rows = re.findall(r'{"(.*?)", (\S+)f, (-?\d+)}', body)
        found = [(name, np.float32(scale), int(point)) for name, scale, point in rows]
        grids = [(name, graph.tensors[name].qparams) for name in names]
        assert found == [(name, grid.scale, grid.zero_point) for name, grid in grids]


def test_the_readme_says_how_to_compile(folder):
    text = (folder / README).read_text()
    for words in ("-DTF_LITE_STATIC_MEMORY", "SMALL_NET_WITHOUT_STATIC_MEMORY", "C++17"):
        assert words in text
    assert "$" not in text


def test_the_array_is_the_file(folder):
    source = (folder / "small_net_model.cc").read_text()
    values = source.split("{", 2)[2].split("}")[0].replace(",", " ").split()
    assert bytes(map(int, values)) == (folder / "small_net.tflite").read_bytes()


def test_the_resolver_has_the_operators_of_the_file(folder):
    header = (folder / "small_net_ops.h").read_text()
    file = read_model((folder / "small_net.tflite").read_bytes())
    codes = {op.code for op in file.operators}
    assert f"MicroMutableOpResolver<{len(codes)}>" in header
    assert len(re.findall(r"resolver\.Add\w+\(\)", header)) == len(codes)
    assert "AddDecode" in header


def test_other_files_stay_and_old_ones_are_replaced(graph, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model_model.h").write_text("old")
    result = write_micro(graph, tmp_path, verbose=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert "kArenaSize" in (tmp_path / "model_model.h").read_text()
    assert sorted(result.files) == sorted(
        str(path) for path in tmp_path.iterdir() if path.name != "notes.txt"
    )
    assert result.examples == 2


def test_the_manifest_has_the_hash_of_every_file(folder):
    digests = json.loads((folder / "small_net_files.json").read_text())
    files = (path for path in folder.glob("small_net*.*") if path.suffix != ".o")
    here = {path.name: path.read_bytes() for path in files}
    del here["small_net_files.json"]
    assert digests == {name: hashlib.sha256(data).hexdigest() for name, data in here.items()}


@pytest.mark.parametrize("old", ["model.h", "ops.h", "self_test.cc"])
def test_sources_of_two_sets_do_not_compile_together(folder, graph, codes, tmp_path, old):
    shutil.copytree(folder, tmp_path / "net")
    write_micro(graph, tmp_path, name="small_net", samples=codes, verbose=False)
    shutil.copy(tmp_path / f"small_net_{old}", tmp_path / "net")
    with pytest.raises(AssertionError, match="These files are of two exports"):
        compile_sources("g++", tmp_path / "net", "-fsyntax-only")


def test_a_full_disk_leaves_the_whole_old_set(graph, codes, tmp_path, monkeypatch):
    write_micro(graph, tmp_path, samples=codes, verbose=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    flushed = []

    def full(descriptor):
        flushed.append(descriptor)
        if len(flushed) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_micro(graph, tmp_path, samples=codes, examples=3, verbose=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_name_that_is_too_long_is_refused_before_the_proof(graph, tmp_path):
    with pytest.raises(ValueError, match="name of the file is too long"):
        write_micro(graph, tmp_path, name="n" * 250)


def test_nothing_is_written_when_the_export_fails(graph, tmp_path):
    with pytest.raises(ExportError, match="strict=True refuses INT4"):
        write_micro(graph, tmp_path / "new", weight_storage="int4", strict=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name",
    [
        "Model",
        "2d",
        "a-b",
        "",
        "class",
        "and",
        "static_cast",
        "size_t",
        "linux",
        "signal",
        "tflite",
        "a b",
        None,
    ],
)
def test_a_name_that_c_plus_plus_does_not_take_is_refused(graph, tmp_path, name):
    with pytest.raises(ValueError, match=r"name must be a C\+\+ namespace"):
        write_micro(graph, tmp_path, name=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 0}, "examples must be a whole number"),
        ({"examples": 1.5}, "examples must be a whole number"),
        ({"arena_margin": -0.1}, "arena_margin must be a share"),
        ({"arena_margin": float("nan")}, "arena_margin must be a share"),
        ({"weight_storage": "int3"}, "weight_storage must be one of"),
    ],
)
def test_bad_arguments_are_refused(graph, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_micro(graph, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(graph, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="folder is a file"):
        write_micro(graph, tmp_path / "file")


def test_no_line_is_wider_than_the_terminal(graph, codes, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    write_micro(graph, "net", samples=codes, examples=1)
    text = capsys.readouterr().out
    assert "Each takes:" in text.replace("\n  ", " ")
    assert max(map(len, text.splitlines())) <= 80


def test_the_self_test_takes_examples_whose_outputs_are_not_saturated(tmp_path):
    """An output at an end of int8 may hide a kernel that is a step off."""
    identity = np.arange(-128, 128).astype(np.int8)
    graph = one_of(lambda x, y: ops.Lookup(x, y, identity), (1, 4))
    samples = np.full((70, 4), 127, np.int8)
    samples[7], samples[9, 1:], samples[65] = 11, 13, 17  # the last one is beyond the first 64
    write_micro(graph, tmp_path / "net", name="net", samples=samples, verbose=False)
    held = (tmp_path / "net" / "net_self_test.cc").read_text()
    assert held.count("11, 11, 11, 11, 127, 13, 13, 13,") == 2  # the inputs and the outputs
