"""Writes `targets/`, a page for each target: `python docs/make_targets.py`.

One template; numbers and operators come from `tflite_export.targets` and `tflite_export.ops.table`.
"""

from __future__ import annotations

import math
import pathlib

from keras_qat.integer import ops
from keras_qat.integer.storage_sizes import PACKED_BITS
from tflite_export.legal.storage import PACKED_IN_LITERT
from tflite_export.ops.op_export import OpExport
from tflite_export.ops.table import OP_EXPORTS
from tflite_export.targets import TARGETS, Target

FOLDER = pathlib.Path(__file__).parent / "targets"
RUNTIMES = {
    "litert_ref": "LiteRT's reference kernels",
    "xnnpack-x86": "LiteRT with XNNPACK, its default on processors",
    "tflm": "TensorFlow Lite Micro's reference kernels",
}

TITLES = {
    "litert": "LiteRT: phones and servers",
    "tflm": "TensorFlow Lite Micro: microcontrollers",
    "ethos-u": "Ethos-U: NPUs of microcontrollers",
}
WHERE = {
    "litert": (
        "Android and iOS apps, Linux boards, servers: everything that opens a `.tflite` file with "
        "LiteRT or TensorFlow Lite, on the processor. Delegates for NPUs and GPUs open the file "
        "too, and may round in their own way: none of them has been tested."
    ),
    "tflm": (
        "Processors that run TensorFlow Lite Micro. Kernels of a vendor, such as CMSIS-NN and "
        "ESP-NN, take the same file. By their sources they compute the same integers; no device "
        "has been tested."
    ),
    "ethos-u": (
        "Processors with an Ethos-U55, U65 or U85 beside them. Arm's compiler Vela turns the file "
        "into commands for the NPU, and leaves operators that it does not know to TensorFlow Lite "
        "Micro. Weights are stored as int8, because INT4 and lookup tables stay on the CPU or end "
        "the compiler. Vela packs weights of few values by itself. The networks of MLPerf Tiny "
        "stay on the NPU whole ([table](../../benchmarks/results/ethos_u.md))."
    ),
}
TO_EXPORT = {
    "litert": """import keras_qat, tflite_export

qmodel = keras_qat.quantize(model, calibration_data=x[:512], target="litert")
report = tflite_export.export(qmodel, "model.tflite", target="litert", samples=x[:256])
answers = tflite_export.predict("model.tflite", x[:16])""",
    "tflm": """import keras_qat, tflite_export

config = keras_qat.LSQConfig(weight_bits=4, activation_bits=8)
qmodel = keras_qat.quantize(model, config, calibration_data=x[:512], target="tflm")
print(tflite_export.plan_memory(qmodel))
firmware = tflite_export.write_micro(qmodel, "firmware", name="net", samples=x[:64])
answers = tflite_export.predict("firmware/net.tflite", x[:16], runtime="tflm")""",
    "ethos-u": """import keras_qat, tflite_export

qmodel = keras_qat.quantize(model, calibration_data=x[:512], target="ethos-u")
report = tflite_export.export(qmodel, "model.tflite", target="ethos-u", samples=x[:64])
print(tflite_export.check("model.tflite", "ethos-u"))  # pip install "keras_qat[ethosu]\"""",
}
TROUBLE = {
    "litert": [
        "Fewer bits make no smaller file: "
        "[why](../guide/troubleshooting.md#files-and-loading), and what an app package does.",
        "The app wants bytes of a camera, or real numbers: "
        "[inputs and outputs](../guide/export.md#inputs-and-outputs).",
        "A layer stays in float: [left in float](../guide/own_layers.md#left-in-float).",
    ],
    "tflm": [
        "The export misses `min_argmax_agreement`: the runtime rounds twice, "
        "[and its limits are wider](../guide/export.md#what-is-compared).",
        "The file has to open elsewhere as well: "
        "[files that open anywhere](../guide/microcontrollers.md#files-that-open-anywhere).",
        "Which storage is smallest: "
        "[storage of weights](../guide/microcontrollers.md#storage-of-weights).",
    ],
    "ethos-u": [
        "`check` says that an operator leaves the NPU: a function of one number is a table, which "
        'GATHER reads on the CPU. `quantize(..., target="ethos-u")` keeps relu, relu6, sigmoid, '
        "tanh, silu, hard_sigmoid and hard_silu on the NPU "
        "([how](../decisions/0051-functions-on-the-npu.md)). A model that was quantized without it "
        "has tables. So have all other functions.",
    ],
}

PAGE = """# {title}

Written by `docs/make_targets.py`; do not edit. `target="{name}"`.

{where}

## Commands

```python
{code}
```

`model` is your trained Keras model and `x` is an array of inputs that it was trained on.

## What is proven

Every export compares each element of each layer with {runtimes}.
{limits}

| | |
|---|---|
| weights are stored as | {storages} |
| least share of answers that a file keeps, by default | {agreement} |
| largest mean error of an output of values, by default | {error} |

## What a grid may be

With `target=`, `quantize` checks these ranges at the start and `fit` after every epoch. An export
outside of one is refused, and the message names the layer.

| ratio of scales | from | to below |
|---|---:|---:|
| input and weight over output, of a weight layer: `s_x * s_w / s_y` | {smallest} | {largest} |
| input over output, of a sum: `s_x / s_y` | {smallest_add} | {largest_add} |
| both inputs over output, of a product: `s_a * s_b / s_y` | {smallest_mul} | {largest} |

## Operators

| integer op | operators in the file | storage of weights |
|---|---|---|
{operators}
{missing}
Which Keras layers become these ops: [table of layers](../layers.md).

## If it does not work

{trouble}
- By message: [troubleshooting](../guide/troubleshooting.md).
"""


_EXACT = ("all (90% for a model of another library)", "0 (1/16 for a model of another library)")
"""The limits of targets as which a model of keras_qat can compute."""


def _share(target: Target) -> str:
    return f"1/{round(1 / target.max_output_error)} of its range"


def power(value: float) -> str:
    """A power of two, as `2^-31`."""
    exponent = math.log2(value)
    if not exponent.is_integer():
        raise ValueError(f"A limit of a target is no power of two. Received: {value!r}")
    return f"2^{exponent:.0f}"


def row(kind: type[ops.IntegerOp], export: OpExport, target: Target) -> str:
    codes = dict.fromkeys(
        operator.code
        for operator in export.operators
        if target.family == "litert" or operator.micro is not None
    )
    packed = target.family != "litert" or issubclass(kind, PACKED_IN_LITERT)
    loaded = [each for each in target.weight_storages if packed or each not in PACKED_BITS]
    stored = [each for each in export.weight_storages if each in loaded]
    return f"| {kind.__name__} | {', '.join(codes) or 'none'} | {', '.join(stored)} |"


def render(target: Target) -> str:
    """The page of a target."""
    runs = {kind: each for kind, each in OP_EXPORTS.items() if target.family in each.targets}
    missing = ", ".join(kind.__name__ for kind in OP_EXPORTS if kind not in runs)
    return PAGE.format(
        name=target.name,
        title=TITLES[target.name],
        where=WHERE[target.name],
        code=TO_EXPORT[target.name],
        runtimes=" and with ".join(RUNTIMES[profile] for profile in target.profiles),
        limits="\n".join(target.limits),
        storages=", ".join(f"`{each}`" for each in target.weight_storages),
        agreement=_EXACT[0] if target.rounds_twice else f"{target.min_argmax_agreement:.0%}",
        error=_EXACT[1] if target.rounds_twice else _share(target),
        smallest=power(target.smallest_multiplier),
        largest=power(target.multiplier_limit),
        smallest_add=power(target.smallest_add_ratio),
        largest_add=power(target.add_ratio_limit),
        smallest_mul=power(target.smallest_mul_multiplier),
        operators="\n".join(row(kind, each, target) for kind, each in runs.items()),
        missing=f"\nNot here: {missing}.\n" if missing else "",
        trouble="\n".join(f"- {each}" for each in TROUBLE[target.name]),
    )


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, target in TARGETS.items():
        (FOLDER / f"{name}.md").write_text(render(target))


if __name__ == "__main__":
    main()
