"""Takes GDNSQ apart on ResNet-8 and CIFAR-10: one change at a time.

    python benchmarks/gdnsq_ablation.py --bits=2 --reestimate

"gdnsq" is the default. The other variants change one thing:

* "no_assist": late widths are not narrowed by hand. "no_refit": steps are not set anew when a width
  arrives. "no_help": neither.
* "penalty_stays": after arrival levels stay free, and the penalty goes on. "keeps_fewer": a channel
  with fewer levels than its target keeps them.
* "published", "published_free": the published recipe and optimizer, three times the epochs, on
  grids that deploy and on the published grids.
* "no_annealing": the learning rate stays. "no_gradual": bit widths start at their targets.
  "no_gradual_calibrated": the same, with ranges of the least squared error.
* "distilled", "distilled_half", "distilled_and_labels": the labels weigh 0, 0.5 and 1 beside the
  float model.
* "no_noise": no random term in the gradient of steps. "lsq_noise": the noise itself instead.
  "squared_penalty": the exponent 2. "ewgs", "aewgs": other estimators.

`benchmarks/study.py` says how a study runs and where its results go, and
`benchmarks/gdnsq_ablation_page.py` writes the page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import study
from study import Variant
from task import Recipe

import keras_qat
from keras_qat.optimizers import RAdam


def _gdnsq(**options: Any) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: keras_qat.GDNSQConfig(weight_bits=bits, activation_bits=bits, **options)


def _published(recipe: Recipe) -> Recipe:
    return dataclasses.replace(
        recipe, epochs=3 * recipe.epochs, learning_rate=2e-3, optimizer=RAdam
    )


PUBLISHED = {"recipe": "published", "after_arrival": "penalty"}

VARIANTS = {
    "gdnsq": Variant(_gdnsq()),
    "no_assist": Variant(_gdnsq(), schedule={"assist": False}),
    "no_refit": Variant(_gdnsq(), schedule={"refit": False}),
    "no_help": Variant(_gdnsq(), schedule={"assist": False, "refit": False}),
    "penalty_stays": Variant(_gdnsq(), schedule={"after_arrival": "penalty"}),
    "keeps_fewer": Variant(_gdnsq(), schedule={"fewer_levels": "keep"}),
    "published": Variant(_gdnsq(), schedule=PUBLISHED, recipe=_published),
    "published_free": Variant(_gdnsq(offset="free"), schedule=PUBLISHED, recipe=_published),
    "no_annealing": Variant(_gdnsq(), schedule={"anneal": None}),
    "no_gradual": Variant(_gdnsq(start_bits=1)),
    "no_gradual_calibrated": Variant(_gdnsq(start_bits=1, start_range="least_error")),
    "distilled": Variant(_gdnsq(), distills=True),
    "distilled_half": Variant(_gdnsq(), distills=True, label_weight=0.5),
    "distilled_and_labels": Variant(_gdnsq(), distills=True, label_weight=1.0),
    "no_noise": Variant(_gdnsq(noise_gradient="none")),
    "lsq_noise": Variant(_gdnsq(estimator="lsq")),
    "squared_penalty": Variant(_gdnsq(), schedule={"exponent": 2}),
    "ewgs": Variant(_gdnsq(estimator="ewgs")),
    "aewgs": Variant(_gdnsq(estimator="aewgs")),
}

if __name__ == "__main__":
    study.run(VARIANTS)
