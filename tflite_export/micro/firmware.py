"""`write_micro`: a network as C++ sources for a project with TensorFlow Lite Micro."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import os
import pathlib
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer import IntegerGraph, run
from keras_qat.integer.files import check_name, replace_set
from keras_qat.integer.own_files import note_as_own
from tflite_export.arena.placement import buffer_bytes, buffers_of, place
from tflite_export.arena.preference import TABLE_CODE_BYTES
from tflite_export.export import Exported, prepare
from tflite_export.file.file_model import FileModel
from tflite_export.file.runtimes import measure_arena
from tflite_export.micro.taken_words import is_taken
from tflite_export.ops.boundary import IoDtypes, at_the_end
from tflite_export.ops.table import micro_kernel
from tflite_export.proof.comparison import LearnedModel
from tflite_export.proof.worth import Metric
from tflite_export.report import Report, print_report
from tflite_export.targets import KERNELS, REFERENCE, target_with
from tflite_export.text_table import fitted_lines

_MADE_BY = "Written by keras_qat; not to be edited."
_TEMPLATES = (
    "model.h",
    "model.cc",
    "ops.h",
    "self_test.h",
    "self_test.cc",
    "main.cc",
    "readme.md",
)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_VALUES_IN_A_LINE = 16
_ARENA_ALIGNMENT = 16


_CANDIDATES = 64
_Arrays = dict[str, npt.NDArray[Any]]
_TABLE_CODE = f", about {TABLE_CODE_BYTES:,} of code that reads the tables of its weights"


@dataclasses.dataclass(frozen=True)
class Firmware:
    """What `write_micro` wrote.

    Attributes:
        files: paths of all files.
        arena_bytes: bytes of the arena that the code reserves.
        measured_arena_bytes: bytes of the arena that TensorFlow Lite Micro took on this machine.
        examples: how many examples the self-test runs.
        report: the report of the export.
    """

    files: tuple[str, ...]
    arena_bytes: int
    measured_arena_bytes: int
    examples: int
    report: Report


def write_micro(
    model: IntegerGraph | LearnedModel,
    folder: str | os.PathLike[str],
    *,
    name: str = "model",
    io_dtype: IoDtypes = "int8",
    weight_storage: str = "auto",
    prefer: str = "flash",
    kernels: str | None = None,
    strict: bool = False,
    compact: bool = True,
    samples: Any = None,
    metric: Metric | None = None,
    outputs: Mapping[str, str] | Sequence[str] | None = None,
    examples: int = 2,
    arena_margin: float = 0.1,
    max_flip_rate: float | None = None,
    min_argmax_agreement: float | None = None,
    max_output_error: float | None = None,
    verbose: bool | int = True,
) -> Firmware:
    """Exports `model` for TensorFlow Lite Micro, proves it, and writes it as C++ sources.

    In the folder, with `name` in front of every file:

    * `_model.h`, `_model.cc`: the flatbuffer, and the bytes of the tensor arena;
    * `_ops.h`: a resolver with the operators that the network uses;
    * `_self_test.h`, `_self_test.cc`: examples with the integers that the network must output, and
      a function that counts the integers that differ on the device;
    * `_main.cc`: a short program that runs the self-test;
    * `_readme.md`: how to compile them, and the arena that each set of kernels takes;
    * `.tflite`, `_report.json`: the file itself and the report of its export;
    * `_files.json`: the SHA-256 of each of these files.

    The files are one set, which is replaced in one step: the folder itself, with your other files
    in it, unless it holds folders or links. Sources of two sets do not compile together.

    Args:
        model: see `tflite_export.export`.
        folder: where to write; created if it does not exist. Files of these names are replaced,
            and other files stay.
        name: name of the files and of the C++ namespace: small letters, digits and underscores.
        io_dtype: see `tflite_export.export`. Examples of the self-test have it.
        kernels: whose kernels run the network, see `plan_memory`. The arena is large enough for
            them; by default for each set of kernels.
        weight_storage, prefer, strict, samples, metric, outputs: see `tflite_export.export`.
        max_flip_rate, min_argmax_agreement, max_output_error: see `tflite_export.export`.
        compact: see `tflite_export.export`. The sources are for TensorFlow Lite Micro alone, so
            they are compact by default; the `.tflite` file then opens there alone.
        examples: how many of the samples the self-test holds. They take flash. Of the first 64,
            those are taken whose outputs lie least at the ends of int8, where a wrong step may not
            show.
        arena_margin: share of the measured arena that is added to it.
        verbose: see `export`.

    Raises:
        ExportError: see `tflite_export.export`.
        VerificationError: the file or TensorFlow Lite Micro differs from the graph.
        ValueError: an argument is wrong; the message names it.
        ImportError: a package that writing or verifying needs is not installed.

    >>> import tempfile
    >>> from keras_qat.integer import GraphBuilder, QuantParams, ops
    >>> builder = GraphBuilder()
    >>> x = builder.add_input("x", (1, 4), QuantParams(np.float32(0.1)))
    >>> y = builder.add(ops.Softmax((x,), "y"), ops.SOFTMAX_OUTPUT)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     firmware = write_micro(builder.build((y,)), folder, name="winner", verbose=False)
    >>> [pathlib.Path(path).name for path in firmware.files][:2]
    ['winner_model.h', 'winner_model.cc']
    """
    destination = pathlib.Path(folder)
    _check_arguments(destination, name, examples, arena_margin)
    exported = prepare(
        model,
        str(destination / f"{name}.tflite"),
        target=target_with("tflm", kernels),
        io_dtype=io_dtype,
        weight_storage=weight_storage,
        prefer=prefer,
        strict=strict,
        compact=compact,
        samples=samples,
        metric=metric,
        outputs=outputs,
        verify=True,
        max_flip_rate=max_flip_rate,
        min_argmax_agreement=min_argmax_agreement,
        max_output_error=max_output_error,
    )
    measured = measure_arena(exported.data, exported.file)
    arenas = _arenas(exported.file, measured)
    largest = max(arenas, key=lambda name: arenas[name]) if kernels is None else kernels
    arena = _arena_with_margin(arenas[largest], arena_margin)
    inputs, expected = _telling(exported, examples)
    given = _at_the_ends(inputs, exported, exported.file.inputs)
    wanted = _at_the_ends(expected, exported, exported.file.outputs)
    count = next(iter(inputs.values())).shape[0]
    values = {
        "made_by": _MADE_BY,
        "name": name,
        "guard": name.upper(),
        "model_bytes": f"{len(exported.data):,}",
        "table_code": _TABLE_CODE * any(each.storage == "lut" for each in exported.report.weights),
        "model_values": _lines(np.frombuffer(exported.data, np.uint8)),
        "measured_arena": f"{measured:,}",
        "largest_arena": f"{arenas[largest]:,}",
        "kernels": largest,
        "arena_rows": "\n".join(f"| {name} | {size:,} |" for name, size in arenas.items()),
        "input_grids": _grids(exported.file, exported.file.inputs),
        "output_grids": _grids(exported.file, exported.file.outputs),
        "margin_percent": f"{100 * arena_margin:g}",
        "arena_bytes": arena,
        "examples": count,
        "compared_outputs": sum(array.nbytes for array in wanted.values()),
        **_resolver(exported.file),
        **_golden(given, wanted, exported.file),
    }
    report = (exported.report.to_json() + "\n").encode()
    contents = _contents(name, values, exported.data, report)
    replace_set(destination, contents)
    note_as_own(exported.data)
    if verbose:
        print_report(exported.report, verbose)
        taken = ", ".join(f"{name} {size:,}" for name, size in arenas.items())
        lines = [
            f"Firmware: {len(contents)} files in {destination}, an arena of {arena:,} bytes.",
            f"The arena is for the kernels {largest!r} (kernels=). Each takes: {taken} bytes.",
        ]
        print("\n".join(fitted_lines(lines)))
    return Firmware(
        tuple(str(destination / file) for file in contents), arena, measured, count, exported.report
    )


def _telling(exported: Exported, count: int) -> tuple[_Arrays, _Arrays]:
    """Inputs and outputs of the examples whose outputs lie least at the ends of int8."""
    inputs = {key: array[:_CANDIDATES] for key, array in exported.codes.items()}
    outputs = run(exported.graph, inputs, "tflm")
    at_ends = sum(
        np.isin(each, (-128, 127)).reshape(len(each), -1).mean(1) for each in outputs.values()
    )
    chosen = np.sort(np.argsort(at_ends, kind="stable")[:count])
    given, wanted = (
        {key: array[chosen] for key, array in each.items()} for each in (inputs, outputs)
    )
    return given, wanted


def _file_names(name: str) -> tuple[str, ...]:
    sources = (f"{name}_{template}" for template in _TEMPLATES)
    return (*sources, f"{name}.tflite", f"{name}_report.json", f"{name}_files.json")


def _contents(name: str, values: Mapping[str, Any], data: bytes, report: bytes) -> dict[str, bytes]:
    """The content of each file. A number of the set is in all sources, which compare it."""
    number = hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:8]
    filled = [_filled(each, {**values, "set": f"0x{number}u"}).encode() for each in _TEMPLATES]
    *names, files = _file_names(name)
    contents = dict(zip(names, [*filled, data, report], strict=True))
    digests = {each: hashlib.sha256(content).hexdigest() for each, content in contents.items()}
    return {**contents, files: (json.dumps(digests, indent=2) + "\n").encode()}


def _check_arguments(folder: pathlib.Path, name: str, examples: int, arena_margin: float) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or is_taken(name):
        raise ValueError(
            "name must be a C++ namespace of small letters, digits and underscores, but no word of "
            "C++ or of its library, such as 'and', 'size_t' or 'linux': write 'my_net' instead. "
            f"Received: {name!r}"
        )
    for file in _file_names(name):
        check_name(folder / file)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The folder is a file. Received: {str(folder)!r}")
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise ValueError(f"examples must be a whole number from 1. Received: {examples!r}")
    if not 0.0 <= arena_margin <= 10.0:
        raise ValueError(
            "arena_margin must be a share of the arena from 0 to 10, such as 0.1 for 10 %. "
            f"Received: {arena_margin!r}"
        )


def _arena_with_margin(measured: int, margin: float) -> int:
    """The arena with its margin, a multiple of 16.

    The margin is 16 bytes or more, because an arena may start at any address.
    """
    wanted = int(np.ceil(measured * (1.0 + margin)))
    wanted = max(wanted, measured + _ARENA_ALIGNMENT)
    return -(-wanted // _ARENA_ALIGNMENT) * _ARENA_ALIGNMENT


def _arenas(file: FileModel, measured: int) -> dict[str, int]:
    """The bytes that each set of kernels takes: what the reference kernels took, and scratch."""
    sizes = {name: buffer_bytes(place(buffers_of(file, name))) for name in KERNELS}
    return {name: measured + max(0, size - sizes[REFERENCE]) for name, size in sizes.items()}


def _grids(file: FileModel, ends: Mapping[str, str]) -> str:
    """What the integers of inputs or outputs stand for, as the body of a C++ array."""
    rows = []
    for name, end in ends.items():
        tensor = file.tensors[end]
        scale = f"{tensor.scale[0]:.9g}" if tensor.scale.size else "0"
        scale = scale if set(scale) & set(".e") else f"{scale}.0"
        rows.append(f"    {{{json.dumps(name)}, {scale}f, {tensor.zero_point}}},")
    return "\n".join(rows)


def _resolver(file: FileModel) -> dict[str, Any]:
    codes = list(dict.fromkeys(op.code for op in file.operators))
    methods = (micro_kernel(code).resolver for code in codes)
    lines = [f"  TF_LITE_ENSURE_STATUS(resolver.{method}());" for method in methods]
    return {"op_count": len(codes), "op_lines": "\n".join(lines)}


def _at_the_ends(
    held: Mapping[str, npt.NDArray[Any]], exported: Exported, ends: Mapping[str, str]
) -> dict[str, npt.NDArray[Any]]:
    """What the graph holds, as the file takes it in and gives it out."""
    tensors, file = exported.graph.tensors, exported.file
    return {
        name: at_the_end(tensors[name], held[name], file.tensors[end].dtype)
        for name, end in ends.items()
    }


def _golden(
    inputs: Mapping[str, npt.NDArray[Any]],
    outputs: Mapping[str, npt.NDArray[Any]],
    file: FileModel,
) -> dict[str, str]:
    """Arrays in the order of the file's inputs and outputs."""
    arrays, entries = [], {}
    for side, tensors, order in (
        ("Input", inputs, file.inputs),
        ("Output", outputs, file.outputs),
    ):
        listed = []
        for index, name in enumerate(order):
            # The self test compares bytes: of wider numbers, in the order of a little-endian core.
            values = tensors[name].reshape(len(tensors[name]), -1).view(np.int8)
            arrays.append(f"const int8_t k{side}{index}[] = {{\n{_lines(values.ravel())}\n}};")
            listed.append(f"{{k{side}{index}, {values[0].size}}}")
        entries[f"{side.lower()}_entries"] = ", ".join(listed)
    return {"golden_arrays": "\n\n".join(arrays), **entries}


def _lines(values: Iterable[Any]) -> str:
    """Numbers as the body of a C++ array."""
    numbers = [str(int(value)) for value in values]
    starts = range(0, len(numbers), _VALUES_IN_A_LINE)
    rows = (numbers[start : start + _VALUES_IN_A_LINE] for start in starts)
    return "\n".join(f"    {', '.join(row)}," for row in rows)


def _filled(template: str, values: Mapping[str, Any]) -> str:
    folder = importlib.resources.files("tflite_export.micro") / "templates"
    text = (folder / f"{template}.template").read_text(encoding="utf-8")
    return string.Template(text).substitute(values)
