"""Takes GDNSQ apart on ResNet-8 and CIFAR-10: one change at a time.

    python benchmarks/gdnsq_ablation.py --bits=2 --reestimate

A run has half the epochs of `benchmarks/gdnsq.py`. "gdnsq" is the default. The other variants
change one thing:

* "no_assist": late widths are not narrowed by hand. "no_refit": steps are not set anew when a width
  arrives. "no_help": neither.
* "penalty_stays": after arrival levels stay free, and the penalty goes on. "keeps_fewer": a channel
  with fewer levels than its target keeps them.
* "published", "published_free": the published recipe and optimizer, six times the epochs, on grids
  that deploy and on the published grids.
* "no_annealing": the learning rate stays. "no_gradual": bit widths start at their targets.
  "no_gradual_calibrated": the same, with ranges of the least squared error.
* "distilled", "distilled_half", "distilled_and_labels": the labels weigh 0, 0.5 and 1 beside the
  float model. "distilled_fresh": the float model has statistics of augmented images.
  "distilled_fine_tuned": the teacher is the float model, trained on by the recipe of the student.
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
import teachers
from study import Variant
from task import Recipe

import keras_qat
from keras_qat.optimizers import RAdam


def _gdnsq(**options: Any) -> Callable[[int], keras_qat.QuantizationConfig]:
    return lambda bits: keras_qat.GDNSQConfig(weight_bits=bits, activation_bits=bits, **options)


def _short(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, epochs=recipe.epochs // 2)


def _published(recipe: Recipe) -> Recipe:
    return dataclasses.replace(
        recipe, epochs=3 * recipe.epochs, learning_rate=2e-3, optimizer=RAdam
    )


def _variant(**options: Any) -> Variant:
    return Variant(**{"config": _gdnsq(), "recipe": _short, **options})


PUBLISHED = {"recipe": "published", "after_arrival": "penalty"}

VARIANTS = {
    "gdnsq": _variant(),
    "no_assist": _variant(schedule={"assist": False}),
    "no_refit": _variant(schedule={"refit": False}),
    "no_help": _variant(schedule={"assist": False, "refit": False}),
    "penalty_stays": _variant(schedule={"after_arrival": "penalty"}),
    "keeps_fewer": _variant(schedule={"fewer_levels": "keep"}),
    "published": _variant(schedule=PUBLISHED, recipe=_published),
    "published_free": _variant(config=_gdnsq(offset="free"), schedule=PUBLISHED, recipe=_published),
    "no_annealing": _variant(schedule={"anneal": None}),
    "no_gradual": _variant(config=_gdnsq(start_bits=1)),
    "no_gradual_calibrated": _variant(config=_gdnsq(start_bits=1, start_range="least_error")),
    "distilled": _variant(distills=True),
    "distilled_half": _variant(distills=True, label_weight=0.5),
    "distilled_and_labels": _variant(distills=True, label_weight=1.0),
    "distilled_fresh": _variant(distills=True, teacher=teachers.fresh),
    "distilled_fine_tuned": _variant(distills=True, teacher=teachers.fine_tuned),
    "no_noise": _variant(config=_gdnsq(noise_gradient="none")),
    "lsq_noise": _variant(config=_gdnsq(estimator="lsq")),
    "squared_penalty": _variant(schedule={"exponent": 2}),
    "ewgs": _variant(config=_gdnsq(estimator="ewgs")),
    "aewgs": _variant(config=_gdnsq(estimator="aewgs")),
}

if __name__ == "__main__":
    study.run(VARIANTS, baseline="gdnsq")
