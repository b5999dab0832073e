"""What each target accepts, and which rounding profiles prove a file for it.

`OpExport.targets` says which targets run an integer op.
"""

from __future__ import annotations

import dataclasses

REFERENCE = "reference"
KERNELS = (REFERENCE, "cmsis-nn-m4", "cmsis-nn-m55", "esp-nn")
"""Whose kernels run a network in TensorFlow Lite Micro: its own, CMSIS-NN on processors with DSP
instructions (Cortex-M4, M7, M33) or with Helium (M55, M85), ESP-NN on the ESP32-S3."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A family of runtimes that loads the same file.

    Attributes:
        name: the name that callers pass.
        family: the name of the target whose operators, kernels and rounding it has.
        default_profile: rounding profile of the default runtime, on x86-64 if that matters.
        profiles: every profile that `verify` proves there.
        processors: the profiles of the default runtime by processor, if they differ.
        weight_storages: the storages of weights that the runtimes load.
        auto_storages: those among which `weight_storage="auto"` chooses.
        rounds_twice: whether its kernels rescale in fixed point, which a trained model can do too.
        compact: whether its files can be compact, see `FileModel`.
        smallest_multiplier: lower end (inclusive) of `s_x * s_w / s_y`.
        multiplier_limit: upper end (exclusive) of `s_x * s_w / s_y`, and of `s_a * s_b / s_y` of a
            Mul.
        smallest_add_ratio: lower end (inclusive) of `s_x / s_y` of an Add or a Sub.
        add_ratio_limit: upper end (exclusive) of `s_x / s_y` of an Add or a Sub.
        smallest_mul_multiplier: lower end (inclusive) of `s_a * s_b / s_y` of a Mul.
        most_concatenated: the most tensors that one CONCATENATION joins; `None` for any number.
        min_argmax_agreement: default smallest share of positions of scores that keep their answer.
        max_output_error: default largest mean error of an output of values, over its range.
        limits: limits of the proof, for the report.
        kernels: whose kernels run its files on a microcontroller, a name of `KERNELS`.
    """

    name: str
    family: str
    default_profile: str
    profiles: tuple[str, ...]
    processors: tuple[str, ...]
    weight_storages: tuple[str, ...]
    auto_storages: tuple[str, ...]
    rounds_twice: bool
    compact: bool
    smallest_multiplier: float
    multiplier_limit: float
    smallest_add_ratio: float
    add_ratio_limit: float
    smallest_mul_multiplier: float
    most_concatenated: int | None
    min_argmax_agreement: float
    max_output_error: float
    limits: tuple[str, ...]
    kernels: str = REFERENCE


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="litert",
            family="litert",
            default_profile="xnnpack-x86",
            profiles=("litert_ref", "xnnpack-x86"),
            processors=("xnnpack-x86", "xnnpack-arm64"),
            weight_storages=("int8", "int4", "int2"),
            auto_storages=("int8",),
            rounds_twice=False,
            compact=False,
            smallest_multiplier=2.0**-31,
            # XNNPACK refuses larger multipliers of a linear op. It leaves an ADD outside its
            # range to another kernel, which rounds differently.
            multiplier_limit=2.0**8,
            smallest_add_ratio=2.0**-10,
            add_ratio_limit=2.0**8,
            smallest_mul_multiplier=2.0**-16,
            most_concatenated=None,
            min_argmax_agreement=0.99,
            max_output_error=1 / 128,
            limits=(
                "Verified with LiteRT's reference kernels and XNNPACK on this machine; delegates "
                "and builds without XNNPACK may round differently.",
                "LiteRT 1.0.1 to 2.3.0 round alike, as measured. TensorFlow Lite 2.14 does not.",
            ),
        ),
        Target(
            name="tflm",
            family="tflm",
            default_profile="tflm",
            profiles=("tflm",),
            processors=(),
            weight_storages=("int8", "int4", "lut"),
            auto_storages=("int8", "int4", "lut"),
            rounds_twice=True,
            compact=True,
            smallest_multiplier=2.0**-31,
            multiplier_limit=2.0**8,
            smallest_add_ratio=2.0**-30,
            # The kernel aborts the process unless `2 * s_x / (2**20 * s_y)` is below 1.
            add_ratio_limit=2.0**19,
            smallest_mul_multiplier=2.0**-31,
            most_concatenated=10,
            min_argmax_agreement=0.9,
            # Measured on binary classifiers of the digits with 2 to 8 bits. A mean error of up to
            # 14 of 256 steps changed 3 % of the answers; from 17 steps on it changed 10 % or more.
            max_output_error=1 / 16,
            limits=(
                "Verified with the reference kernels of TensorFlow Lite Micro; optimized kernels "
                "of a vendor may round differently.",
                "Dense layers need a version of September 2024 or later, lookup tables one of "
                "October 2025 or later.",
            ),
        ),
    )
}


TARGETS["ethos-u"] = dataclasses.replace(
    TARGETS["tflm"],
    name="ethos-u",
    weight_storages=("int8",),  # an INT4 layer runs on the CPU, and a table ends the compiler
    auto_storages=("int8",),
    compact=False,
    limits=("Verified with the reference kernels of TensorFlow Lite Micro. No NPU was measured.",),
)


def get_target(identifier: str | Target) -> Target:
    """The target of that name (or the target itself).

    >>> get_target("tflm").default_profile
    'tflm'

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if isinstance(identifier, Target):
        return identifier
    if identifier not in TARGETS:
        known = ", ".join(map(repr, TARGETS))
        raise ValueError(f"Unknown target; it is one of {known}. Received: {identifier!r}")
    return TARGETS[identifier]


def target_with(identifier: str | Target, kernels: str | None) -> Target:
    """The target, with kernels of a vendor.

    ESP-NN unpacks INT4 and runs it in the slow reference kernels, so no layer is stored as INT4.

    >>> target_with("tflm", "esp-nn").weight_storages
    ('int8', 'lut')

    Raises:
        ValueError: an unknown name, or kernels for another target than `"tflm"`.
    """
    target = get_target(identifier)
    if kernels is None:
        return target
    if kernels not in KERNELS or target.name != "tflm":
        raise ValueError(
            f"kernels must be one of {KERNELS}, for target 'tflm'. Received: kernels={kernels!r}, "
            f"target={target.name!r}"
        )
    slow = ("int4",) if kernels == "esp-nn" else ()
    stored = tuple(each for each in target.weight_storages if each not in slow)
    return dataclasses.replace(
        target, weight_storages=stored, auto_storages=stored, kernels=kernels
    )
