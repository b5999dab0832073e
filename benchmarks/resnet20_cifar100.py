"""ResNet-20 on CIFAR-100, which tensorflow-datasets downloads.

    python -c "import tensorflow_datasets as tfds; tfds.load('cifar100', data_dir='tfds')"
    python benchmarks/resnet20_cifar100.py --data_dir=tfds --only=float,32,0
    python benchmarks/resnet20_cifar100.py --data_dir=tfds --only=gdnsq,2,0

The recipes have the epochs of CIFAR-10 (`resnet20.py`), and were written down before the first run.
"""

from __future__ import annotations

import networks
import papers
import small_images
import study

TASK = small_images.task("ResNet-20", small_images.CIFAR100, {4: 20, 3: 30, 2: 100, 1: 240})
FLOAT_TRAINING = small_images.float_training(
    networks.resnet20, small_images.CIFAR100, epochs=200, learning_rate=0.1, decay=1e-3
)

if __name__ == "__main__":
    study.run(papers.VARIANTS, TASK, FLOAT_TRAINING.execute)
