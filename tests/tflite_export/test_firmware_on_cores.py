"""The C++ sources run on emulated cores, M3 and M55, and stop a build without its flag."""

import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from keras_qat.integer import run
from tflite_export import write_micro
from tflite_export.legal.legalize import legalize
from tflite_export.targets import get_target

STAND_IN = pathlib.Path(__file__).parent / "micro_stand_in"
COMPILER, EMULATOR = "arm-none-eabi-g++", "qemu-system-arm"
BOARDS = {
    "mps2-an385": ["-mcpu=cortex-m3"],
    "mps3-an547": ["-mcpu=cortex-m55", "-mfloat-abi=hard"],
}
OPTIONS = [
    *("-std=c++17", "-O2", "-mthumb", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"),
    *("-ffreestanding", "-nostdlib", "-fno-tree-loop-distribute-patterns"),
    *("-Wall", "-Wextra", "-Werror"),
]
FLAG = "-DTF_LITE_STATIC_MEMORY"
EXAMPLES = 3


@pytest.fixture(scope="module")
def folder(graph, codes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("firmware") / "net"
    write_micro(graph, folder, name="net", samples=codes, examples=EXAMPLES, verbose=False)
    return folder


@pytest.fixture(scope="module")
def expected(graph, codes):
    legal = legalize(graph, get_target("tflm"), "auto").graph
    return run(legal, {name: array[:EXAMPLES] for name, array in codes.items()}, "tflm")


def array(name: str, kind: str, values) -> str:
    return f"extern const {kind} {name}[] = {{{', '.join(str(int(each)) for each in values)}}};\n"


def answers_of(graph, codes, answers) -> str:
    """The answers of the stand-in as C++."""
    inputs, outputs = (
        [int(np.prod(graph.tensors[name].shape)) for name in names]
        for names in (graph.inputs, graph.outputs)
    )
    seen = [codes[name][k].ravel() for k in range(EXAMPLES) for name in graph.inputs]
    said = [answers[name][k].ravel() for k in range(EXAMPLES) for name in graph.outputs]
    return "".join(
        [
            "#include <stddef.h>\n#include <stdint.h>\n",
            f"extern const size_t kInputCount = {len(inputs)}, kOutputCount = {len(outputs)};\n",
            f"extern const size_t kAnswerBytes = {sum(outputs) * EXAMPLES};\n",
            array("kInputSizes", "size_t", inputs),
            array("kOutputSizes", "size_t", outputs),
            array("kExpectedInputs", "int8_t", np.concatenate(seen)),
            array("kAnswers", "int8_t", np.concatenate(said)),
        ]
    )


def answer(board: str, folder, tmp_path, source: str) -> tuple[int, str]:
    """Compiles, links and runs; returns the exit status and what was printed."""
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: gcc-arm-none-eabi, qemu-system-arm of Debian")
    (tmp_path / "answers.cc").write_text(source)
    sources = [*sorted(folder.glob("*.cc")), STAND_IN / "bare_metal.cc", tmp_path / "answers.cc"]
    program = tmp_path / "program.elf"
    command = [COMPILER, *BOARDS[board], *OPTIONS, FLAG, f"-I{STAND_IN}", f"-I{folder}"]
    linked = [*command, f"-T{STAND_IN / 'board.ld'}", "-o", program, *sources, "-lgcc"]
    made = subprocess.run(linked, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    emulated = [EMULATOR, "-M", board, "-nographic", "-monitor", "none", "-serial", "none"]
    emulated += ["-semihosting-config", "enable=on,target=native", "-kernel", program]
    ran = subprocess.run(emulated, capture_output=True, text=True, timeout=60)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("board", BOARDS)
def test_true_answers_pass(board, folder, graph, codes, expected, tmp_path):
    status, said = answer(board, folder, tmp_path, answers_of(graph, codes, expected))
    total = sum(each.size for each in expected.values())
    assert (status, said.split(";")[0]) == (0, f"0 of {total} integers differ")


@pytest.mark.parametrize("board", BOARDS)
def test_wrong_answers_are_counted(board, folder, graph, codes, expected, tmp_path):
    wrong = {name: each.copy() for name, each in expected.items()}
    wrong[graph.outputs[0]][1].flat[:2] ^= 1
    wrong[graph.outputs[1]][2].flat[0] ^= 4
    status, said = answer(board, folder, tmp_path, answers_of(graph, codes, wrong))
    assert status == 1
    assert said.startswith("3 of ")


@pytest.mark.parametrize("flags", [[FLAG], ["-DNET_WITHOUT_STATIC_MEMORY"], []])
def test_a_build_without_the_flag_of_tflm_stops(folder, flags):
    """Its structs would differ, and so would every answer."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    command = ["g++", "-std=c++17", "-fsyntax-only", *flags, f"-I{STAND_IN}", f"-I{folder}"]
    made = subprocess.run([*command, folder / "net_self_test.cc"], capture_output=True, text=True)
    assert (made.returncode == 0) == bool(flags)
    assert flags or "Compile with -DTF_LITE_STATIC_MEMORY" in made.stderr
