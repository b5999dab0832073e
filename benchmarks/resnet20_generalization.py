"""Accuracy on training images beside accuracy on test images, for models of `resnet20.py`.

    python benchmarks/resnet20_generalization.py --shared_dir=../shared "W3A3, labels=run.keras"

Every argument is a name and the path of a trained model. The accuracies of these models and of the
float model are added to benchmarks/results/resnet20_generalization.json, and
`benchmarks/resnet20_page.py` writes the table. All models infer. The training images are the
augmented images of one epoch.
"""

from __future__ import annotations

import json
import pathlib

import keras
import resnet20
from absl import app

import keras_qat

PATH = pathlib.Path(__file__).parent / "results" / "resnet20_generalization.json"
_EPOCH = 1000  # no run has trained on its crops


def measured(model: keras.Model) -> dict[str, float]:
    """Accuracies in %, on an epoch of augmented training images and on the test images."""
    model.compile(loss=resnet20.TASK.loss(), metrics=["accuracy"])
    batches = resnet20.training_batches(0, _EPOCH)
    steps = resnet20.TASK.steps()
    found = {
        "training": model.evaluate(batches, steps=steps, verbose=2, return_dict=True),
        "test": model.evaluate(
            *resnet20.images("test"), batch_size=500, verbose=2, return_dict=True
        ),
    }
    return {split: round(100.0 * logs["accuracy"], 2) for split, logs in found.items()}


def main(argv: list[str]) -> None:
    models = dict(each.rsplit("=", 1) for each in argv[1:])
    found = json.loads(PATH.read_text()) if PATH.exists() else {}
    if "float" not in found:
        found["float"] = measured(resnet20.float_model())
    for name, path in models.items():
        found[name] = measured(keras_qat.load_model(path, compile=False))
    PATH.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
