"""Arrays in an `.npz` file from outside: sizes are checked before anything is read."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from keras_qat.integer.invalid_file import InvalidFileError

MAX_BYTES = 2**29
"""The unpacked bytes that a file may have, if its reader is not told another limit."""

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SUFFIX = ".npy"
_KINDS = "iufb"


class Archive:
    """The arrays of an `.npz` file by name, each read when it is asked for.

    Args:
        stream: the open file.
        max_bytes: the largest sum of the sizes that the file states for its arrays.

    Raises:
        InvalidFileError: the file states more, or packs them in an unusual way.
    """

    def __init__(self, stream: BinaryIO, max_bytes: int = MAX_BYTES):
        self._zip = zipfile.ZipFile(stream)
        members = self._zip.infolist()
        check_sizes(members, max_bytes)
        self._members = {info.filename.removesuffix(_SUFFIX): info for info in members}
        if len(self._members) != len(members):
            raise InvalidFileError("Two arrays of the file have one name.")
        self._asked: set[str] = set()

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """An array.

        Raises:
            InvalidFileError: there is no such array, or its bytes are not what its head states.
        """
        if not isinstance(name, str) or name not in self._members:
            raise InvalidFileError(f"The file has no array {str(name)[:60]!r}.")
        self._asked.add(name)
        info = self._members[name]
        with self._zip.open(info) as member:
            content = member.read(info.file_size)
        return _array(content, name)

    def check_all_read(self) -> None:
        """Raises an `InvalidFileError` if the file has arrays that nobody asked for."""
        more = sorted(self._members.keys() - self._asked)
        if more:
            raise InvalidFileError(f"Nothing in the file names its array {more[0][:60]!r}.")


def check_sizes(members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    """Raises an `InvalidFileError` for members of an archive that are too large, or odd."""
    total = sum(info.file_size for info in members)
    if total > max_bytes:
        raise InvalidFileError(
            f"The file unpacks to {total:,} bytes, and at most {max_bytes:,} are read. If you "
            "trust it, raise the limit with max_bytes."
        )
    for info in members:
        if info.compress_type not in _COMPRESSIONS or info.flag_bits & 1:
            raise InvalidFileError(f"{info.filename[:60]!r} is packed in an unusual way.")


def _array(content: bytes, name: str) -> npt.NDArray[Any]:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise InvalidFileError(f"The array {name[:60]!r} has the unknown format {version}.")
    read = np.lib.format.read_array_header_1_0
    if version == (2, 0):
        read = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    held = len(content) - stream.tell()
    if dtype.kind not in _KINDS or any(size < 0 for size in shape):
        raise InvalidFileError(
            f"The array {name[:60]!r} must hold numbers. Received: {dtype}, shape {shape}"
        )
    if math.prod(shape) * dtype.itemsize != held:
        raise InvalidFileError(
            f"The array {name[:60]!r} states {dtype} of shape {shape}, and has {held:,} bytes."
        )
    flat = np.frombuffer(content, dtype, offset=stream.tell()).copy()
    return flat.reshape(shape, order="F" if fortran else "C")
