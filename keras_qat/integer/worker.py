"""A process that runs files from outside: a file that crashes a native runtime ends it alone.

It is started at the first call, as `python -m keras_qat.integer`, and serves all later ones.
A message is a JSON head and the bytes of the arrays that the head lists.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_qat.integer.invalid_file import InvalidFileError

Arrays = Mapping[str, npt.NDArray[Any]]
Answer = dict[str, npt.NDArray[Any]]

FUNCTIONS = frozenset({"tflite_export.predict:answer", "keras_qat.integer.ops.float_part:answer"})
"""The functions that a worker calls: `(arrays, options) -> arrays`."""

LONGEST_CALL = 600.0
"""Seconds after which a call that has not answered is ended."""

_LENGTH = struct.Struct("<Q")
_ERRORS = {each.__name__: each for each in (ImportError, RuntimeError, ValueError)}
_LOCK = threading.Lock()
_WORKERS: dict[int, subprocess.Popen[bytes]] = {}
"""The worker of each process: a copy of this process starts its own."""


def call_in_worker(
    function: str,
    arrays: Arrays,
    options: Mapping[str, Any],
    about: str,
    max_seconds: float = LONGEST_CALL,
) -> Answer:
    """Calls a function in the worker process.

    Args:
        function: one of `FUNCTIONS`.
        arrays: arrays of numbers.
        options: JSON data.
        about: the file or the layer, for messages.
        max_seconds: how long the call may take. Then the worker is ended.

    Raises:
        InvalidFileError: the worker died of it, or did not answer in time.
        ImportError, RuntimeError, ValueError: raised by the function.
    """
    with _LOCK:
        worker = _started()
        late = threading.Event()
        clock = threading.Timer(max_seconds, _end_late, (worker, late))
        clock.daemon = True
        clock.start()
        try:
            _send(worker.stdin, {"function": function, "options": options}, arrays)
            head, found = _receive(worker.stdout)
        except (OSError, EOFError) as error:
            said = _end(worker)
            if late.is_set():
                said = (
                    f"the runtime did not answer within {max_seconds:g} seconds, so its process "
                    "was ended. Pass fewer examples, or a larger max_seconds if the file is one "
                    "that takes so long."
                )
            raise InvalidFileError(f"{about}: {said}") from error
        except BaseException:
            _end(worker)  # an answer that nobody took would be taken for the next one
            raise
        finally:
            clock.cancel()
    if "error" in head:
        raise _ERRORS.get(head["error"], RuntimeError)(head["message"])
    return found


def _end_late(worker: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    worker.kill()


def _started() -> subprocess.Popen[bytes]:
    worker = _WORKERS.get(os.getpid())
    if worker is not None and worker.poll() is not None:
        _end(worker)
        worker = None
    if worker is None:
        places = os.pathsep.join(each for each in sys.path if each)
        worker = subprocess.Popen(
            [sys.executable, "-m", "keras_qat.integer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": places},
        )
        _WORKERS[os.getpid()] = worker
    return worker


def _end(worker: subprocess.Popen[bytes]) -> str:
    """Ends a worker, and says how it ended."""
    _WORKERS.pop(os.getpid(), None)
    with contextlib.suppress(OSError):
        for stream in (worker.stdin, worker.stdout):
            if stream is not None:
                stream.close()
    try:
        code = worker.wait(timeout=5)
    except subprocess.TimeoutExpired:
        worker.kill()
        code = worker.wait()
    ended = str(code)
    with contextlib.suppress(ValueError):
        ended = signal.Signals(-code).name
    return (
        f"the runtime ended with {ended} while it ran this file, in a process of its own. The file "
        "is damaged, or holds what the runtime does not take: write it again."
    )


@atexit.register
def _end_all() -> None:
    worker = _WORKERS.get(os.getpid())
    if worker is not None and worker.poll() is None:
        _end(worker)


def _send(stream: Any, head: Mapping[str, Any], arrays: Arrays) -> None:
    held = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    listed = [[name, array.dtype.str, np.shape(arrays[name])] for name, array in held.items()]
    text = json.dumps({**head, "arrays": listed}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for array in held.values():
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def _receive(stream: Any) -> tuple[dict[str, Any], Answer]:
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    head = json.loads(bytes(_read(stream, length)))
    arrays = {}
    for name, dtype, shape in head["arrays"]:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        arrays[name] = np.frombuffer(_read(stream, size), dtype).reshape(shape)
    return head, arrays


def _read(stream: Any, size: int) -> memoryview:
    content = np.empty(size, np.uint8).data
    place = content
    while place:
        count = stream.readinto(place)
        if not count:
            raise EOFError("the other process has ended")
        place = place[count:]
    return content


def serve() -> None:
    """Answers calls until its input ends. What native code prints does not mix with answers."""
    given = os.fdopen(os.dup(0), "rb")
    taken = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            head, arrays = _receive(given)
        except EOFError:
            return
        try:
            if head["function"] not in FUNCTIONS:
                raise ValueError(f"No such function: {head['function']!r}")
            module, name = head["function"].split(":")
            found = getattr(importlib.import_module(module), name)(arrays, head["options"])
            _send(taken, {}, found)
        except Exception as error:
            kinds = [each.__name__ for each in type(error).__mro__]
            kind = next((each for each in kinds if each in _ERRORS), "RuntimeError")
            _send(taken, {"error": kind, "message": str(error) or kinds[0]}, {})
