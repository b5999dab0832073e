"""ResNet-18 on ImageNet, which tensorflow-datasets prepares from the archives that you download.

    python -c "import tensorflow_datasets as tfds; tfds.load('imagenet2012', data_dir='tfds')"
    python benchmarks/resnet18_imagenet.py --data_dir=tfds --batch_size=256 --only=float,32,0
    python benchmarks/resnet18_imagenet.py --data_dir=tfds --batch_size=256 --only=gdnsq,4,0

GDNSQ's published code has RAdam at 0.0003 with batches of 250, for up to 40 epochs. These recipes
have the same rate. The validation images, which the papers report, are read once, at the end.
"""

from __future__ import annotations

import imagenet
import networks
import papers
import study
from float_training import FloatTraining
from task import Task

TASK = Task(
    name="ResNet-18 on ImageNet",
    float_model=papers.float_model,
    images=imagenet.images,
    batches=imagenet.batches,
    steps=imagenet.steps,
    recipes=papers.recipes({4: 10, 3: 20, 2: 30, 1: 40}, learning_rate=3e-4),
    from_logits=True,
    validates=False,
    reestimates=True,
)
FLOAT_TRAINING = FloatTraining(
    network=networks.resnet18,
    images=imagenet.images,
    batches=imagenet.batches,
    steps=imagenet.steps,
    epochs=90,
    rate={"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    splits=("test",),
)

if __name__ == "__main__":
    study.run(papers.VARIANTS, TASK, FLOAT_TRAINING.execute)
