"""Compares Keras with TensorFlow Lite Micro: codes that differ, answers that change, time.

    python benchmarks/inference_of_tflm.py

ResNet-8 with LSQ trains for an epoch from the float model, with 2 and with 4 bits. All test images
then run in the quantized model, once as LiteRT and once as TFLite Micro, and in the integer
interpreter with the rounding of TFLite Micro. On some of them the runtime itself runs too.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import keras
import numpy as np
import resnet8
from absl import app, flags

import keras_qat
import tflite_export

OUTPUT = flags.DEFINE_string(
    "output", "benchmarks/results/inference_of_tflm.json", "The figures; the page lies beside it."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the training.")
BITS = (2, 4)
IN_RUNTIME = 128


def trained(bits: int, seed: int) -> keras_qat.QuantizedModel:
    """ResNet-8, an epoch after quantization."""
    keras.utils.set_random_seed(seed)
    x, _ = resnet8.images("train")
    config = keras_qat.LSQConfig(weight_bits=bits, activation_bits=bits)
    calibration = x[: resnet8.CALIBRATION_IMAGES]
    qmodel = keras_qat.quantize(resnet8.float_model(), config, calibration_data=calibration)
    steps = resnet8.TASK.steps()
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    qmodel.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    qmodel.fit(resnet8.training_batches(seed), steps_per_epoch=steps, epochs=1, verbose=2)
    return qmodel


def measured(qmodel: keras_qat.QuantizedModel, folder: pathlib.Path) -> dict[str, Any]:
    """The row of one model."""
    x, labels = resnet8.images("test")
    path, loose = folder / "resnet8.tflite", {"max_flip_rate": 1.0, "min_argmax_agreement": 0.0}
    options = {"target": "tflm", "verbose": False, **loose}
    proven = tflite_export.export(qmodel, path, samples=x[:IN_RUNTIME], **options)
    report = tflite_export.export(qmodel, path, samples=(x, labels), verify=False, **options)
    path.unlink()
    answers = {}
    for target in ("litert", "tflm"):
        with qmodel.computing_as(target):
            answers[target] = np.argmax(qmodel.predict(x, batch_size=256, verbose=0), axis=-1)
    return {
        "images": len(x),
        "codes": sum(tensor.elements for tensor in report.comparison.tensors),
        "flips_as_tflm": sum(tensor.differing for tensor in report.comparison.tensors),
        "runtime_mismatches": proven.mismatches,
        "runtime_elements": proven.compared_elements,
        "accuracy_as_litert": report.worth.of_trained,
        "accuracy_as_tflm": float(np.mean(answers["tflm"] == labels.ravel())),
        "accuracy_of_file": report.worth.of_file,
        "answers_changed_as_litert": 1.0 - report.evaluation.outputs[0].agreement,
        "answers_changed_as_tflm": 1.0 - report.comparison.argmax_agreement,
        "answers_changed_between": float(np.mean(answers["litert"] != answers["tflm"])),
    }


def page(found: dict[str, Any]) -> str:
    """The figures as a page."""
    lines = [
        "# Inference as TensorFlow Lite Micro",
        "",
        "ResNet-8 on CIFAR-10, an epoch of LSQ after the float model, all 10,000 test images, seed",
        f"{found['seed']}. The device is the integer interpreter with the rounding of TensorFlow",
        "Lite Micro; on 128 images the runtime ran too, with 0 elements off.",
        "",
        "| | accuracy as LiteRT | as TFLite Micro | of the device | answers that the device changes"
        " against Keras as LiteRT | as TFLite Micro | codes that differ as TFLite Micro |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in found["rows"].items():
        accuracy = (f"{row[f'accuracy_{of}']:.2%}" for of in ("as_litert", "as_tflm", "of_file"))
        changed = (f"{row[f'answers_changed_as_{of}']:.2%}" for of in ("litert", "tflm"))
        flips = f"{row['flips_as_tflm']:,} of {row['codes']:,}"
        lines.append(f"| {' | '.join([name, *accuracy, *changed, flips])} |")
    lines += [
        "",
        "What it costs: evaluation of batches of 256 in TFLite Micro's arithmetic over LiteRT's,",
        "medians of interleaved repeats. JAX compiles, TensorFlow does not.",
        "",
        "| backend | network | wall | CPU |",
        "|---|---|---:|---:|",
    ]
    for backend, rows in found.get("evaluation", {}).items():
        lines += [f"| {backend} | {name} | {r['wall']} | {r['cpu']} |" for name, r in rows.items()]
    commands = ["python benchmarks/evaluation_time.py", "python benchmarks/inference_of_tflm.py"]
    return "\n".join([*lines, "", "```sh", *commands, "```", ""])


def main(_: Any) -> None:
    """Measures each width and writes the figures."""
    output = pathlib.Path(OUTPUT.value)
    found = {}
    for bits in BITS:
        found[f"W{bits}A{bits}"] = measured(trained(bits, SEED.value), output.parent)
        print(bits, found[f"W{bits}A{bits}"], flush=True)
        kept = json.loads(output.read_text()) if output.exists() else {}
        kept |= {"seed": SEED.value, "rows": found}
        output.write_text(json.dumps(kept, indent=1) + "\n")
        output.with_suffix(".md").write_text(page(kept))


if __name__ == "__main__":
    app.run(main)
