"""Files, and sets of files in a folder, that are replaced in one piece."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping

PathLike = str | os.PathLike[str]

_PART = ".part"
_MOST_LETTERS = 50


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
    _remove_left_folders(folder)
    if folder.exists() and not all(map(_is_plain_file, folder.iterdir())):
        replace_files({folder / name: data for name, data in contents.items()})
        return
    beside = folder.with_name(f".{folder.name[:_MOST_LETTERS]}.{secrets.token_hex(4)}{_PART}")
    beside.mkdir()
    descriptor = os.open(beside, os.O_RDONLY) if os.name != "nt" else None
    try:
        if descriptor is not None:
            _lock(descriptor)
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
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(beside, ignore_errors=True)


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


def _remove_left_folders(folder: pathlib.Path) -> None:
    """Removes folders that killed processes left beside a folder."""
    start = f".{folder.name[:_MOST_LETTERS]}."
    for path in folder.parent.iterdir():
        if path.name.startswith(start) and path.name.endswith(_PART) and path.is_dir():
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    if _lock(descriptor):
                        shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(descriptor)


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
    start = f".{target.name[:_MOST_LETTERS]}."
    _remove_left(target.parent, start)
    beside = target.with_name(f"{start}{secrets.token_hex(4)}{_PART}")
    try:
        with beside.open("xb") as stream:
            _lock(stream.fileno())
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


def _remove_left(folder: pathlib.Path, start: str) -> None:
    """Removes files that killed processes left. The ones of living processes are locked."""
    for path in folder.iterdir():
        if path.name.startswith(start) and path.name.endswith(_PART):
            with contextlib.suppress(OSError), path.open("rb") as stream:
                if _lock(stream.fileno()):
                    path.unlink()


def _lock(descriptor: int) -> bool:
    """Locks a file until it is closed, and returns whether that was possible.

    Windows removes no open files, which is lock enough.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
