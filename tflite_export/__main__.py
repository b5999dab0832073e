"""Exports a trained model as a proven integer .tflite file.

    python -m tflite_export MODEL OUT.tflite [options]

MODEL is a .keras file or an .npz file. The .keras file holds a trained model that came from
keras_qat.quantize. The .npz file comes from keras_qat.integer.save_graph, and needs neither Keras
nor TensorFlow.

For phones, with real examples for the proof (an .npy array of model inputs):

    python -m tflite_export model.keras model.tflite --samples=x_test.npy

For microcontrollers, with packed weights of 1 to 7 bits, and with C++ sources in a folder:

    python -m tflite_export model.keras model.tflite --target=tflm --micro_dir=firmware

To see the flash and RAM of a microcontroller before any training:

    python -m tflite_export model.keras --plan

Exit status:

    0  The file is written and proven.
    1  The model cannot be exported with these options, or a runtime disagreed.
    2  An argument or a given file is wrong.

If the export fails, OUT.tflite stays as it was.
"""

from __future__ import annotations

import pathlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import app, flags

import keras_qat
from keras_qat.integer import load_graph
from tflite_export.arena.preference import PREFERENCES
from tflite_export.export import check_path, export
from tflite_export.file.file_model import IO_DTYPES
from tflite_export.file.runtimes import standard_error
from tflite_export.legal.storage import WEIGHT_STORAGES
from tflite_export.micro.firmware import write_micro
from tflite_export.micro.memory import plan_memory
from tflite_export.ops.boundary import IoDtypes, check_io_dtype
from tflite_export.proof.output_kinds import KINDS
from tflite_export.targets import KERNELS, REFERENCE, TARGETS

_TARGET = flags.DEFINE_enum("target", "litert", list(TARGETS), "Runtimes to write for.")
_IO_DTYPE = flags.DEFINE_multi_string(
    "io_dtype",
    ["int8"],
    f"Dtype of the model's inputs and outputs: {', '.join(IO_DTYPES)}; or, several times, "
    "NAME=DTYPE for one of them.",
)
_WEIGHT_STORAGE = flags.DEFINE_enum(
    "weight_storage",
    "auto",
    list(WEIGHT_STORAGES),
    "Storage of weights. For tflm, auto chooses what rounds as int8. For litert, int4 and int2 "
    "pack Dense layers, and auto is int8.",
)
_PREFER = flags.DEFINE_enum(
    "prefer",
    PREFERENCES[0],
    list(PREFERENCES),
    "What --weight_storage=auto takes the least of, with the code that reads tables.",
)
_KERNELS = flags.DEFINE_enum(
    "kernels", None, list(KERNELS), "Whose kernels run a file for tflm: its arena, and INT4 or not."
)
_PORTABLE = flags.DEFINE_bool(
    "portable", False, "Refuse a file that x86-64 and arm64 compute differently; target litert."
)
_STRICT = flags.DEFINE_bool("strict", False, "Refuse a storage that rounds worse than int8.")
_COMPACT = flags.DEFINE_bool(
    "compact", False, "Write a smaller file, which TFLM alone opens; target tflm only."
)
_SAMPLES = flags.DEFINE_string(
    "samples",
    None,
    "Examples for the proofs: .npy, or .npz with an array for each input. Real numbers for a "
    ".keras model, int8 codes for an .npz graph; random ones by default.",
)
_LABELS = flags.DEFINE_string(
    "labels", None, "Labels of the samples (.npy), for the accuracy of model and file."
)
_OUTPUTS = flags.DEFINE_multi_string(
    "output", [], "NAME=scores or NAME=values: what an output is; by default the loss tells."
)
_PART = flags.DEFINE_multi_string(
    "part", [], "Name of a tensor that the file ends with, instead of the model's outputs."
)
_MAX_FLIP_RATE = flags.DEFINE_float(
    "max_flip_rate", None, "Largest share of layer elements that may differ from the model."
)
_MIN_ARGMAX_AGREEMENT = flags.DEFINE_float(
    "min_argmax_agreement", None, "Smallest share of positions of scores that keep their answer."
)
_MAX_OUTPUT_ERROR = flags.DEFINE_float(
    "max_output_error", None, "Largest mean error of an output of values, as a share of its range."
)
_VERIFY = flags.DEFINE_bool("verify", True, "Run the runtimes and require equality.")
_REPORT = flags.DEFINE_string("report", None, "Where to write the report as JSON.")
_MICRO_DIR = flags.DEFINE_string("micro_dir", None, "Folder for C++ sources; target tflm only.")
_MICRO_NAME = flags.DEFINE_string("micro_name", "model", "Name of the C++ files and namespace.")
_DETAILS = flags.DEFINE_bool("details", False, "Print the whole report, not its first lines.")
_PLAN = flags.DEFINE_bool("plan", False, "Print flash and RAM in TFLM, and write nothing.")

_FAILED, _BAD_USAGE = 1, 2
_USAGE = "usage: python -m tflite_export MODEL OUT.tflite [options]; --help explains them"


def main(arguments: Sequence[str]) -> int:
    """Runs the command line. A problem is one line on stderr."""
    if len(arguments) != (2 if _PLAN.value else 3):
        return _fail(_USAGE, _BAD_USAGE)
    if _MICRO_DIR.value and _TARGET.value != "tflm":
        return _fail("--micro_dir needs --target=tflm", _BAD_USAGE)
    try:
        if not _PLAN.value:
            check_path(arguments[2])
        model = _load_model(arguments[1])
        samples = _load_samples(_SAMPLES.value)
        if _LABELS.value is not None:
            samples = (samples, _load_samples(_LABELS.value))
        outputs, io_dtype = _outputs(), _io_dtype()
    except (ValueError, OSError, ImportError) as error:
        return _fail(str(error), _BAD_USAGE)
    try:
        if _PLAN.value:
            kernels = _KERNELS.value or REFERENCE
            storage, prefer = _WEIGHT_STORAGE.value, _PREFER.value
            print(plan_memory(model, storage, kernels=kernels, prefer=prefer).render())
        else:
            _export(model, arguments[2], samples, outputs, io_dtype)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        return _fail(str(error), _FAILED)
    return 0


def _export(
    model: Any, path: str, samples: Any, outputs: dict[str, str] | list[str], io_dtype: IoDtypes
) -> None:
    options = {
        "io_dtype": io_dtype,
        "weight_storage": _WEIGHT_STORAGE.value,
        "prefer": _PREFER.value,
        "kernels": _KERNELS.value,
        "strict": _STRICT.value,
        "samples": samples,
        "outputs": outputs,
        "max_flip_rate": _MAX_FLIP_RATE.value,
        "min_argmax_agreement": _MIN_ARGMAX_AGREEMENT.value,
        "max_output_error": _MAX_OUTPUT_ERROR.value,
    }
    if _MICRO_DIR.value:
        firmware = write_micro(
            model, _MICRO_DIR.value, name=_MICRO_NAME.value, verbose=False, **options
        )
        print(
            f"Firmware: {len(firmware.files)} files in {_MICRO_DIR.value}, an arena of "
            f"{firmware.arena_bytes:,} bytes."
        )
    report = export(
        model,
        path,
        target=_TARGET.value,
        compact=_COMPACT.value,
        verify=_VERIFY.value,
        portable=_PORTABLE.value,
        verbose=2 if _DETAILS.value else 1,
        **options,
    )
    if _MICRO_DIR.value and not _COMPACT.value:
        print(
            f"The firmware holds {_MICRO_NAME.value}.tflite of {_MICRO_DIR.value}, which is "
            f"compact. {path} is the same network, not compact."
        )
    if _REPORT.value:
        report.save_json(_REPORT.value)


def _outputs() -> dict[str, str] | list[str]:
    """The kinds of outputs that --output gives, by name, or the tensors that --part names."""
    if _PART.value and _OUTPUTS.value:
        raise ValueError(
            "--part and --output: a part says by itself what its outputs are. Leave one out. "
            f"Received: --part={_PART.value[0]}"
        )
    if _PART.value:
        return list(_PART.value)
    pairs = [text.rpartition("=") for text in _OUTPUTS.value]
    for (name, _, kind), text in zip(pairs, _OUTPUTS.value, strict=True):
        if not name or kind not in KINDS:
            raise ValueError(f"--output must be NAME=scores or NAME=values. Received: {text!r}")
    return {name: kind for name, _, kind in pairs}


def _io_dtype() -> IoDtypes:
    """The dtype that --io_dtype gives, or the dtypes by name."""
    given = _IO_DTYPE.value
    if len(given) == 1 and "=" not in given[0]:
        return check_io_dtype(given[0])
    pairs = [text.rpartition("=") for text in given]
    for (name, _, _), text in zip(pairs, given, strict=True):
        if not name:
            raise ValueError(f"--io_dtype must be one dtype, or NAME=DTYPE. Received: {text!r}")
    return {name: check_io_dtype(dtype) for name, _, dtype in pairs}


def _load_model(path: str) -> Any:
    """The model or the graph that a file holds."""
    kind = pathlib.Path(path).suffix
    if kind == ".npz":
        return load_graph(path)
    if kind != ".keras":
        raise ValueError(f"MODEL must be a .keras or an .npz file. Received: {path!r}")
    _check_archive(path)
    loaders: list[Callable[..., Any]] = []
    standard_error(lambda: loaders.append(keras_qat.load_model))  # no start-up messages
    model = _loaded(loaders[0], path)
    if not hasattr(model, "to_integer"):
        raise ValueError(
            f"{path} holds a {type(model).__name__} without quantizers. Quantize it with "
            "keras_qat.quantize, train it and save that model."
        )
    return model


def _loaded(load: Callable[..., Any], path: str) -> Any:
    """The model with its loss, which tells what the outputs are; without, if that is not known."""
    try:
        return load(path)
    except Exception:  # a loss that this process does not know
        return load(path, compile=False)


def _check_archive(path: str) -> None:
    """Raises a `ValueError` unless the file is a whole Keras archive."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"MODEL: there is no such file. Received: {path!r}")
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None and "config.json" in archive.namelist()
    except (zipfile.BadZipFile, EOFError, zlib.error):
        whole = False
    if not whole:
        raise ValueError(f"{path} is not a Keras model, or is damaged. Save the model again.")


def _load_samples(path: str | None) -> Any:
    """The array of an .npy file, or the arrays of an .npz file by name."""
    if path is None:
        return None
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded.items())
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile and NumPy raise different types
        raise ValueError(f"{path} holds no arrays of numbers: {error}") from error


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    app.run(main)
