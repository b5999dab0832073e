"""VGG-small on CIFAR-10: six convolutions of 128 to 512 channels and one Dense layer.

    python benchmarks/vgg_small.py --only=float,32,0
    python benchmarks/vgg_small.py --only=gdnsq,2,0

A training step costs nine times the step of ResNet-20: 2.4 seconds of a core for 128 images. So
runs are short. The recipes were written down before the first run.
"""

from __future__ import annotations

import networks
import papers
import small_images
import study

TASK = small_images.task("VGG-small", small_images.CIFAR10, {4: 8, 3: 10, 2: 15, 1: 30})
FLOAT_TRAINING = small_images.float_training(
    networks.vgg_small, small_images.CIFAR10, epochs=30, learning_rate=0.05, decay=5e-3
)

if __name__ == "__main__":
    study.run(papers.VARIANTS, TASK, FLOAT_TRAINING.execute)
