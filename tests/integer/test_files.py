"""Files are replaced in one piece: links, modes and neighbours stay, and nothing is left over."""

import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import pytest

from keras_qat.integer import files
from keras_qat.integer.files import check_name, replace_file, replace_files, replace_set

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
    (tmp_path / part_of(path, process)).write_bytes(b"half")
    replace_file(path, data)
    assert sorted(each.name for each in tmp_path.iterdir()) == [other.name, path.name]


def part_of(path, process):
    """The name of what a process writes beside a file; killed processes leave it."""
    name = files._name_beside(path).name
    files._MINE.discard(name)
    assert f"-{os.getpid()}-" in name
    return name.replace(f"-{os.getpid()}-", f"-{process}-")


@posix
@pytest.mark.parametrize("make", [pathlib.Path.mkdir, pathlib.Path.touch])
def test_the_part_of_a_living_process_or_of_another_machine_stays(tmp_path, make, monkeypatch):
    path = tmp_path / "net.tflite"
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    part = tmp_path / part_of(path, living.pid)
    make(part)
    replace_file(path, b"new")
    assert part.exists()
    living.communicate()
    with monkeypatch.context() as patch:
        patch.setattr(files.platform, "node", lambda: "another machine")
        replace_file(path, b"new")
    assert part.exists()
    replace_file(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_an_earlier_process_of_this_number_left_is_removed(tmp_path):
    """As in a container, where the process that is started again has the number 1 again."""
    path = tmp_path / "net.tflite"
    mine, earlier = files._name_beside(path), files._name_beside(path)
    files._MINE.discard(earlier.name)
    for each in (mine, earlier):
        each.touch()
    replace_file(path, b"new")
    assert sorted(tmp_path.iterdir()) == sorted([mine, path])
    files._MINE.discard(mine.name)
    assert not files._MINE


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


@posix
def test_a_set_is_replaced_as_a_whole_and_other_files_stay(tmp_path):
    folder, data = tmp_path / "deep" / "net", {f"f{n}": b"A" * 9 for n in range(5)}
    replace_set(folder, data)
    (folder / "mine").write_text("mine")
    mine = (folder / "mine").stat().st_ino
    (folder / "f1").chmod(0o600)
    folder.chmod(0o750)
    replace_set(folder, dict.fromkeys(data, b"B"))
    assert {path.name for path in folder.iterdir()} == {*data, "mine"}
    assert {(folder / name).read_bytes() for name in data} == {b"B"}
    assert (folder / "mine").stat().st_ino == mine
    assert stat.S_IMODE((folder / "f1").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


@posix
@pytest.mark.parametrize("exchanges", [True, False])
def test_a_set_beside_folders_and_links_is_replaced_file_by_file(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    else:
        (tmp_path / "net" / "inner").mkdir(parents=True)
    replace_set(tmp_path / "net", {"a": b"A"})
    replace_set(tmp_path / "net", {"a": b"B", "b": b"B"})
    assert (tmp_path / "net" / "a").read_bytes() == b"B"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


@posix
def test_kills_mix_no_two_sets(tmp_path):
    folder = tmp_path / "net"
    sets = [{f"f{n}": bytes([letter]) * 999 for n in range(9)} for letter in b"AB"]
    replace_set(folder, sets[0])
    for number in range(12):
        process = os.fork()
        if process == 0:
            while True:
                for each in sets:
                    replace_set(folder, each)
        time.sleep(0.002 * number)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} in sets
    replace_set(folder, sets[0])
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
