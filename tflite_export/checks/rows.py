"""What is known of an operator on a target."""

from __future__ import annotations

import dataclasses
from typing import Literal

Status = Literal["fast", "runs", "slow", "last bit may differ", "refused"]


@dataclasses.dataclass(frozen=True)
class Fact:
    """What is known of operators on a target.

    Attributes:
        status: `"fast"`: a kernel for this processor. `"runs"`: a plain kernel. `"slow"`: a kernel
            that takes several times longer. `"last bit may differ"`: it runs, and nobody proves its
            rounding. `"refused"`: the target cannot run the file.
        why: the reason.
        source: where this was read or measured.
        read_on: the date, as `2026-11-30`; empty for what was run just now.
    """

    status: Status
    why: str
    source: str
    read_on: str


@dataclasses.dataclass(frozen=True)
class OperatorCheck:
    """An operator of a file on a target.

    Attributes:
        operator: its code, such as `"CONV_2D"`.
        name: the tensor that it yields.
        fact: what is known of it.
    """

    operator: str
    name: str
    fact: Fact
