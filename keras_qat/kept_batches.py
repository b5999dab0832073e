"""Batches that are read once and needed again: in memory while they are few, in a file beyond."""

from __future__ import annotations

import errno
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

IN_MEMORY = 2**26
"""The bytes of batches that stay in memory."""

Array = npt.NDArray[Any]


class KeptBatches:
    """Batches of arrays, each read from their source once, and here as often as they are needed.

    Memory does not grow with their number: beyond a limit all of them lie in a temporary file,
    which ends with this object or with the process.

    Args:
        batches: lists of as many arrays of numbers each.
        in_memory: the bytes up to which no file is made; `IN_MEMORY` by default.

    Raises:
        OSError: the disk is full.

    >>> kept = KeptBatches([np.arange(2), np.ones((2, 1))] for _ in range(3))
    >>> len(kept), [array.tolist() for array in next(iter(kept))]
    (3, [[0, 1], [[1.0], [1.0]]])
    """

    def __init__(self, batches: Iterable[list[Array]], in_memory: int | None = None):
        size = IN_MEMORY if in_memory is None else in_memory
        # It lives as long as this object, so no `with` can close it.
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=size)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._places: list[tuple[int, int]] = []  # where a batch begins, and its arrays
        for batch in batches:
            self._places.append((self._file.tell(), len(batch)))
            for array in batch:
                self._write(array)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[list[Array]]:
        for place, count in self._places:
            self._file.seek(place)
            read = np.lib.format.read_array
            yield [read(self._file, allow_pickle=False) for _ in range(count)]

    def _write(self, array: Array) -> None:
        try:
            np.lib.format.write_array(self._file, array, allow_pickle=False)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                errno.ENOSPC,
                f"batches of {self._file.tell():,} bytes fill the folder of temporary files, "
                f"{tempfile.gettempdir()}. Give fewer of them, as with calibration_batches=n of "
                "quantize, or name a folder on a larger disk in the environment variable TMPDIR",
            ) from error
