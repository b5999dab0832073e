"""`OtherRuntime`: LiteRT of another environment, on this machine or on an emulated one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer.fixed_point import get_profile
from tflite_export.file import litert_process
from tflite_export.file.file_model import FileModel
from tflite_export.file.runtimes import Arrays, by_indices

_PROCESSES: weakref.WeakKeyDictionary[OtherRuntime, subprocess.Popen[bytes]] = (
    weakref.WeakKeyDictionary()
)


@dataclasses.dataclass(frozen=True, eq=False)
class OtherRuntime:
    """LiteRT in another environment, such as an older version or another processor.

    Its Python needs NumPy, and `ai_edge_litert` or `tflite_runtime`. It starts at the first use and
    serves all later ones.

    Args:
        python: the command that starts that Python: a path, or several words, as for an emulator.
            The path of a script of this package follows, so that Python must see it.
        profile: how its kernels round, a name of `keras_qat.integer.PROFILES`.
        compiled_model: run LiteRT's CompiledModel on the processor, instead of its Interpreter.

    Raises:
        ValueError: an unknown profile, or reference kernels in a CompiledModel, which has none.

    >>> import sys
    >>> runtime = OtherRuntime(sys.executable)
    >>> runtime.said().startswith("ai_edge_litert 2")
    True
    """

    python: str | os.PathLike[str] | Sequence[str]
    profile: str = "xnnpack-x86"
    compiled_model: bool = False

    def __post_init__(self) -> None:
        name = get_profile(self.profile).name
        if self.compiled_model and not name.startswith("xnnpack"):
            raise ValueError(
                "CompiledModel runs XNNPACK alone: take a profile of it, or leave compiled_model "
                f"out. Received: profile={self.profile!r}"
            )

    @property
    def command(self) -> list[str]:
        """The words that start the other Python."""
        if isinstance(self.python, str | os.PathLike):
            return [os.fspath(self.python)]
        return list(self.python)

    @functools.cached_property
    def name(self) -> str:
        """What it said of itself when it was first asked."""
        return self.said()

    def said(self) -> str:
        """Which runtime answers: its package, version and processor.

        Raises:
            RuntimeError: that Python does not start, or has no runtime.
        """
        said = self._ask({})["said"].tobytes().decode()
        return f"{said}, CompiledModel" if self.compiled_model else said

    def run(
        self,
        data: bytes,
        model: FileModel,
        inputs: Mapping[str, npt.NDArray[Any]],
        reference: bool = False,
    ) -> Arrays:
        """Runs a file there; see `run_litert`.

        Raises:
            RuntimeError: the runtime refuses the file or ends.
        """
        return by_indices(self._run, data, model, inputs, reference)

    def _run(
        self,
        data: bytes,
        inputs: litert_process.Indexed,
        outputs: Sequence[int],
        batch: int,
        reference: bool,
    ) -> dict[int, npt.NDArray[Any]]:
        """See `litert_process.run`."""
        arrays = {f"input{index}": array for index, array in inputs.items()}
        arrays["model"], arrays["outputs"] = np.frombuffer(data, np.uint8), np.array(outputs)
        arrays |= {"batch": np.array(batch), "reference": np.array(reference)}
        arrays["compiled"] = np.array(self.compiled_model)
        found = self._ask(arrays)
        return {index: found[f"output{index}"] for index in outputs}

    def _ask(self, request: litert_process.Message) -> dict[str, npt.NDArray[Any]]:
        process = self._started()
        try:
            litert_process.send(process.stdin, request)
            answer = litert_process.receive(process.stdout)
        except (OSError, EOFError) as error:
            raise RuntimeError(f"{self._ended(process)} Received: python={self.command}") from error
        except BaseException:
            self._ended(process)  # else its answer would be taken for the next one
            raise
        if "error" in answer:
            raise RuntimeError(
                f"The runtime of {' '.join(self.command)} refused: "
                f"{answer['error'].tobytes().decode()}"
            )
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        process = _PROCESSES.get(self)
        if process is None:
            try:
                process = subprocess.Popen(
                    [*self.command, litert_process.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            except OSError as error:
                raise RuntimeError(
                    f"The Python of another runtime does not start ({error}). Pass the command "
                    f"that starts it. Received: python={self.command}"
                ) from error
            _PROCESSES[self] = process
            weakref.finalize(self, _end, process)
        return process

    def _ended(self, process: subprocess.Popen[bytes]) -> str:
        _PROCESSES.pop(self, None)
        return f"The Python of another runtime ended with status {_end(process)}."


def _end(process: subprocess.Popen[bytes]) -> int:
    """Ends a process and returns its status."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
