"""What Arm's compiler Vela says of a file: operators that leave the NPU, memory, cycles."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from tflite_export.checks.rows import Fact, OperatorCheck
from tflite_export.file.file_model import FileModel

ACCELERATORS = tuple(
    f"ethos-{core}-{macs}"
    for core, sizes in (
        ("u55", (32, 64, 128, 256)),
        ("u65", (256, 512)),
        ("u85", (128, 256, 512, 1024, 2048)),
    )
    for macs in sizes
)
_KIB = 1024
_TIMEOUT = 600
_LEAVES = re.compile(
    r"^Warning \(supported operators\) operator: \w+, ofm: '(.*)'\n(?:Reason: (.*))?", re.MULTILINE
)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A file that Vela has compiled.

    Attributes:
        accelerator: the NPU, such as `"ethos-u55-128"`.
        rows: the operators of the file.
        memory: bytes in each kind of memory, as Vela estimates them: SRAM, DRAM, flash.
        cycles: cycles of an inference, as Vela estimates them.
    """

    accelerator: str
    rows: tuple[OperatorCheck, ...]
    memory: Mapping[str, int]
    cycles: int

    @property
    def on_npu(self) -> float:
        """The share of the operators that stay on the NPU."""
        return sum(row.fact.status == "fast" for row in self.rows) / max(len(self.rows), 1)


def compile_with_vela(
    data: bytes, file: FileModel, accelerator: str, vela: Sequence[str] | None = None
) -> Compiled:
    """Compiles a file and reads what Vela says of it.

    Args:
        data, file: the file and its content.
        accelerator: one of `ACCELERATORS`.
        vela: the command of Vela; by default the one of this Python.

    Raises:
        ImportError: Vela is not installed.
        RuntimeError: Vela ends with an error; the message has its last lines.
    """
    command = list(vela) if vela is not None else [sys.executable, "-m", "ethosu.vela"]
    version = f"Vela {_version(command)}"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "net.tflite"
        path.write_bytes(data)
        command += [str(path), "--output-dir", folder, "--accelerator-config", accelerator]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
        said = ran.stdout + ran.stderr
        found = next(pathlib.Path(folder).glob("*summary*.csv"), None)
        if ran.returncode or found is None:
            raise RuntimeError(f"Vela cannot compile the file: {' '.join(said.split()[-60:])}")
        with found.open(newline="") as stream:
            (summary,) = csv.DictReader(stream)
    kinds = {"SRAM": ("sram",), "DRAM": ("dram",), "flash": ("on_chip_flash", "off_chip_flash")}
    memory = {
        kind: round(_KIB * sum(float(summary[f"{each}_memory_used"]) for each in columns))
        for kind, columns in kinds.items()
    }
    reasons = {match[1]: match[2] for match in _LEAVES.finditer(said)}
    rows = tuple(_row(op.code, op.outputs[0], reasons, version) for op in file.operators)
    cycles = round(float(summary["cycles_total"]))
    return Compiled(accelerator, rows, memory, cycles)


def _version(command: Sequence[str]) -> str:
    try:
        asked = subprocess.run([*command, "--version"], capture_output=True, text=True)
        there = asked.returncode == 0
    except OSError:
        there = False
    if not there:
        raise ImportError(
            'Checking for Ethos-U needs Vela, a compiler: pip install "keras_qat[ethosu]", or '
            f"vela= with its command. Received: {' '.join(command)}"
        )
    return asked.stdout.strip()


def _row(operator: str, name: str, reasons: Mapping[str, str], version: str) -> OperatorCheck:
    if name in reasons:
        why = f"leaves the NPU: {reasons[name] or 'no reason given'}"
        return OperatorCheck(operator, name, Fact("slow", why, version, ""))
    return OperatorCheck(operator, name, Fact("fast", "on the NPU", version, ""))
