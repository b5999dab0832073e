"""Files, and sets of files in a folder, that are replaced in one piece."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import platform
import re
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Iterator, Mapping

PathLike = str | os.PathLike[str]

_PART = ".part"
_MOST_LETTERS = 50
_A_DAY = 24 * 60 * 60
_MINE: set[str] = set()
"""The names of the parts that this process writes now. In a container, an earlier process may have
had its number."""


def replace_file(path: PathLike, data: bytes) -> None:
    """Writes `data` beside `path`, waits for the disk and renames: `path` is never half written.

    A link keeps pointing, and its target is replaced. A file keeps its mode. What a killed process
    left half written is removed.

    Raises:
        OSError: the disk is full, or cannot be written to. The file is as it was.
    """
    replace_files({path: data})


def replace_files(contents: Mapping[PathLike, bytes]) -> None:
    """Replaces files, see `replace_file`. All are on the disk before the first one is renamed."""
    targets = {pathlib.Path(os.path.realpath(path)): data for path, data in contents.items()}
    with contextlib.ExitStack() as stack:
        written = {
            target: stack.enter_context(_beside(target, data)) for target, data in targets.items()
        }
        for target, beside in written.items():
            os.replace(beside, target)
    for folder in dict.fromkeys(target.parent for target in targets):
        flush(folder)


def replace_set(folder: pathlib.Path, contents: Mapping[str, bytes]) -> None:
    """Writes files to a folder as one set: a process that is killed leaves all old ones or all new.

    A folder with the new files and with links to the other ones is written beside, and takes the
    place of the old one in a single step. Where that cannot be (the system has no such step, or
    the folder holds folders or links, or something is mounted on it), files are renamed one after
    the other, once all of them are on the disk.

    Args:
        folder: the folder; it is made if it is not there.
        contents: the content of each file, by its name.

    Raises:
        OSError: the disk is full, or cannot be written to. The old files are as they were.
    """
    folder = pathlib.Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(folder)
    if folder.exists() and not all(map(_is_plain_file, folder.iterdir())):
        replace_files({folder / name: data for name, data in contents.items()})
        return
    beside = _name_beside(folder)
    beside.mkdir()
    try:
        for old in folder.iterdir() if folder.exists() else ():
            if old.name not in contents and not old.name.endswith(_PART):
                os.link(old, beside / old.name)
        replace_files({beside / name: data for name, data in contents.items()})
        for name in contents:
            if (folder / name).exists():
                (beside / name).chmod(stat.S_IMODE((folder / name).stat().st_mode))
        if not folder.exists():
            beside.rename(folder)
        else:
            beside.chmod(stat.S_IMODE(folder.stat().st_mode))
            if not _exchange(beside, folder):
                replace_files({folder / name: data for name, data in contents.items()})
        flush(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        _MINE.discard(beside.name)


def _is_plain_file(path: pathlib.Path) -> bool:
    return path.is_file() and not path.is_symlink()


_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Lets two folders change their names in one step, and returns whether the system can."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(rename(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0)


def check_name(path: PathLike) -> None:
    """Raises a `ValueError` if a file cannot have this name, because it is too long."""
    target = pathlib.Path(os.path.realpath(path))
    try:
        limit = os.pathconf(target.parent, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        limit = 255  # of nearly all file systems
    size = len(os.fsencode(target.name))
    if size > limit:
        raise ValueError(
            f"The name of the file is too long: a folder takes names of {limit} bytes. Received: "
            f"{size} bytes, {target.name[:40]!r}..."
        )


def flush(path: pathlib.Path) -> None:
    """Waits until a file or a folder is on the disk, where the system can say so."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # Windows opens no folders
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise  # some systems flush no folders
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _beside(target: pathlib.Path, data: bytes) -> Iterator[pathlib.Path]:
    """A file beside another one, with its mode. It is gone when the context ends."""
    _remove_left(target)
    beside = _name_beside(target)
    try:
        with beside.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            if target.exists():
                beside.chmod(stat.S_IMODE(target.stat().st_mode))
            if os.name == "nt":
                stream.close()  # Windows renames no open files
            yield beside
    finally:
        beside.unlink(missing_ok=True)
        _MINE.discard(beside.name)


def _name_beside(target: pathlib.Path) -> pathlib.Path:
    """A new name for what this process writes beside a target."""
    mine = f"{_start(target)}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{_PART}"
    _MINE.add(mine)
    return target.with_name(mine)


def _start(target: pathlib.Path) -> str:
    return f".{target.name[:_MOST_LETTERS]}."


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _remove_left(target: pathlib.Path) -> None:
    """Removes what processes of this machine, which run no longer, left beside a target."""
    pattern = re.compile(
        rf"{re.escape(_start(target))}{_machine()}-(\d{{1,10}})-[0-9a-f]{{8}}{re.escape(_PART)}"
    )
    for path in target.parent.iterdir():
        found = pattern.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if found is None or _may_be_in_use(path, int(found[1])):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _may_be_in_use(path: pathlib.Path, process: int) -> bool:
    """Whether the process that wrote a part may be at it still.

    On Windows, where asking a process ends it, a part is in use for a day.
    """
    if process == os.getpid():
        return path.name in _MINE
    if os.name == "nt":
        return time.time() - path.stat().st_mtime < _A_DAY
    try:
        os.kill(process, 0)
    except PermissionError:
        return True  # it runs, for another user
    except (ProcessLookupError, OverflowError):
        return False
    return True
