"""Files are replaced in one piece: links, modes and neighbours stay, and nothing is left over."""

import os
import signal
import stat
import sys
import time

import pytest

from keras_qat.integer.files import check_name, replace_file, replace_files

posix = pytest.mark.skipif(sys.platform == "win32", reason="forks and links")


def test_a_mode_stays(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(b"old")
    path.chmod(0o640)
    replace_file(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o640)


@posix
def test_a_link_keeps_pointing_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "net.tflite", tmp_path / "latest.tflite"
    target.write_bytes(b"old")
    link.symlink_to(target)
    replace_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["net.tflite"]


@posix
def test_what_killed_processes_left_is_removed_and_the_rest_stays(tmp_path):
    path, data = tmp_path / "net.tflite", os.urandom(1 << 22)
    other = tmp_path / ".other.tflite.01234567.part"
    other.write_bytes(b"of another file")
    replace_file(path, data)
    for number in range(8):
        process = os.fork()
        if process == 0:
            while True:
                replace_file(path, data)
        time.sleep(0.003 * number)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert path.read_bytes() == data
    (tmp_path / ".net.tflite.01234567.part").write_bytes(b"half")
    replace_file(path, data)
    assert sorted(each.name for each in tmp_path.iterdir()) == [other.name, path.name]


@posix
def test_the_part_of_a_living_process_stays(tmp_path):
    import fcntl

    part = tmp_path / ".net.tflite.01234567.part"
    with part.open("wb") as stream:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX)
        replace_file(tmp_path / "net.tflite", b"new")
        assert part.exists()


def test_no_file_is_replaced_if_one_cannot_be_written(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        replace_files({tmp_path / "a": b"new", tmp_path / "no folder" / "b": b"new"})
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_long_names_work_up_to_the_limit_of_the_folder(tmp_path):
    limit = os.pathconf(tmp_path, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    check_name(tmp_path / ("n" * limit))
    replace_file(tmp_path / ("n" * limit), b"new")
    replace_file(tmp_path / ("\N{SNOWMAN}" * (limit // 3)), b"new")
    with pytest.raises(ValueError, match="name of the file is too long: a folder takes names of"):
        check_name(tmp_path / ("n" * (limit + 1)))
