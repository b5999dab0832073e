"""Command line: `python -m tflite_export graph.npz net.tflite --target=tflm`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import app, flags

from keras_qat.integer import load_graph
from tflite_export.export import export
from tflite_export.file_model import IO_DTYPES
from tflite_export.targets import TARGETS

_TARGET = flags.DEFINE_enum("target", "litert", list(TARGETS), "Runtimes to write for.")
_IO_DTYPE = flags.DEFINE_enum(
    "io_dtype", "int8", list(IO_DTYPES), "Dtype of the model's inputs and outputs."
)
_VERIFY = flags.DEFINE_bool("verify", True, "Run the runtimes and require equality.")


def main(arguments: Sequence[str]) -> int:
    """Exports a saved integer graph; problems end in one line on stderr and status 1."""
    if len(arguments) != 3:
        return _fail("usage: python -m tflite_export GRAPH.npz OUT.tflite [--target=litert|tflm]")
    _, source, destination = arguments
    try:
        export(
            load_graph(source),
            destination,
            target=_TARGET.value,
            io_dtype=_IO_DTYPE.value,
            verify=_VERIFY.value,
        )
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        return _fail(" ".join(str(error).split()))
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    app.run(main)
