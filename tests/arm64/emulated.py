"""A Python with LiteRT on an emulated Cortex-A53, of packages from Debian and PyPI alone.

`python -m tests.arm64.emulated` prints its command.
"""

import importlib.metadata
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile

QEMU = "qemu-aarch64-static"
SOURCES = pathlib.Path("/etc/apt/sources.list.d/debian.sources")
PYTHON = "python3.11"
DEBIAN = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0"),
    *("liblzma5", f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib", f"{PYTHON}-minimal"),
)
COMPILED = ("ai_edge_litert", "numpy")
PURE = ("flatbuffers", "backports.strenum", "tqdm", "typing_extensions")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
CORE = {"name": "cortex-a53", "part": "0xd03"}
CPU = """processor\t: {number}
BogoMIPS\t: 100.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 4

"""
"""LiteRT asks /proc/cpuinfo which core runs it, and ends at the text of another processor."""


class NotHereError(Exception):
    """The packages cannot be had; the message says which."""


def emulated_python() -> list[str]:
    """The command of that Python. The packages are kept for the next time.

    Raises:
        NotHereError: no emulator, no Debian, or no network.
    """
    if shutil.which(QEMU) is None:
        raise NotHereError(f"no {QEMU}: apt-get install qemu-user-static")
    if not SOURCES.exists():
        raise NotHereError(f"no {SOURCES}: this needs packages of Debian 12")
    version = importlib.metadata.version("ai_edge_litert")
    folder = pathlib.Path(tempfile.gettempdir()) / f"arm64_with_litert_{version}_{os.getuid()}"
    root = folder / "root"
    if not root.exists():
        shutil.rmtree(folder, ignore_errors=True)
        try:
            made = _download(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotHereError(f"packages for arm64 cannot be had: {error}") from error
        made.rename(root)
    return [
        *("env", "-i", "PATH=/usr/bin", "LANG=C.UTF-8", "OPENBLAS_NUM_THREADS=1"),
        *(f"HOME={folder}", f"PYTHONHOME={root}/usr", f"PYTHONPATH={root}/site"),
        *(QEMU, "-cpu", CORE["name"], "-L", str(root), f"{root}/usr/bin/{PYTHON}"),
    ]


def _download(folder: pathlib.Path) -> pathlib.Path:
    """Unpacks everything under a folder of its own; this machine's packages stay as they are."""
    root, packages = folder / "unfinished", folder / "packages"
    for each in (root / "site", root / "proc", packages, folder / "lists" / "partial"):
        each.mkdir(parents=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": SOURCES,
        "Dir::Etc::sourceparts": "-",
    }
    apt = ["apt-get", "-qq", *(word for key in options for word in ("-o", f"{key}={options[key]}"))]
    _run([*apt, "update"], packages)
    _run([*apt, "download", *DEBIAN], packages)
    for package in packages.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), str(root)], packages)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    pip += ["--python-version", "3.11", "-d", "."]
    arm = ["--implementation", "cp", "--abi", "cp311"]
    arm += [word for each in PLATFORMS for word in ("--platform", each)]
    _run([*pip, *arm, *map(_pinned, COMPILED)], packages)
    _run([*pip, *PURE], packages)
    for wheel in packages.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(root / "site")
    (root / "proc" / "cpuinfo").write_text(
        "".join(CPU.format(number=number, part=CORE["part"]) for number in range(2))
    )
    return root


def _pinned(package: str) -> str:
    """The version that is installed here, so that nothing but the processor differs."""
    return f"{package}=={importlib.metadata.version(package)}"


def _run(command: list[str], folder: pathlib.Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=180)


if __name__ == "__main__":
    print(shlex.join(emulated_python()))
