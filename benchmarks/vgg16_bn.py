"""VGG16 with BatchNormalization on CIFAR-10.

    python benchmarks/vgg16_bn.py --only=float,32,0
    python benchmarks/vgg16_bn.py --only=gdnsq,2,0

The recipes were written down before the first run.
"""

from __future__ import annotations

import networks
import papers
import small_images
import study

TASK = small_images.task("VGG16-BN", small_images.CIFAR10, {4: 20, 3: 30, 2: 60, 1: 120})
FLOAT_TRAINING = small_images.float_training(
    networks.vgg16_bn, small_images.CIFAR10, epochs=120, learning_rate=0.05, decay=5e-3
)

if __name__ == "__main__":
    study.run(papers.VARIANTS, TASK, FLOAT_TRAINING.execute)
