"""How a run that resumes skips the training data that it has seen."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_qat.training.pipeline_sample import is_arrays


class SeenData:
    """The training data of a `fit`, brought to where a run was killed.

    Data begins with the epoch that `fit` gets as `initial_epoch`. What came before is not there.

    Args:
        model: the model that trains.
        arguments: the arguments of `fit` by name.

    Attributes:
        obstacle: why the data cannot be skipped; empty if it can.
    """

    def __init__(self, model: Any, arguments: Mapping[str, Any]):
        strategy = getattr(model, "distribute_strategy", None)
        self._devices = getattr(strategy, "num_replicas_in_sync", 1)
        self._data = arguments.get("x")
        self._steps = arguments.get("steps_per_epoch")
        self._first = arguments.get("initial_epoch") or 0
        self._length = _length(self._data)
        self.obstacle = self._find_obstacle()

    def _find_obstacle(self) -> str:
        kind, length, steps = type(self._data).__name__, self._length, self._steps
        if self._devices > 1:
            return f"{self._devices} devices share the batches"
        if self._data is None or length is None:
            return f"a {kind} begins anew with each process, so that batches cannot be skipped"
        if length == _UNKNOWN:
            return (
                f"this {kind} does not tell its length (tf.data has assert_cardinality), so that "
                "batches cannot be skipped"
            )
        if steps is not None and length not in (steps, _ENDLESS):
            return f"steps_per_epoch={steps} cuts epochs of another length out of the {kind}"
        return ""

    def replay_epochs(self, epochs: int) -> int:
        """Brings the data to an epoch, as if it had been read until then.

        Returns: how many batches are still to be skipped, before the ones of the epoch.
        """
        past = max(0, epochs - self._first)
        if self.obstacle or self._data is None:
            return 0
        if isinstance(self._data, keras.utils.PyDataset):
            for _ in range(past):
                self._data.on_epoch_begin()
                self._data.on_epoch_end()
        if self._length == _ENDLESS:
            return past * int(self._steps or 0)
        if _is_dataset(self._data):
            for _ in range(past * self._passes()):
                iter(self._data)  # a seeded shuffle counts the passes
        return 0

    def _passes(self) -> int:
        """How many passes Keras begins in an epoch: on TensorFlow one more that it does not use."""
        twice = keras.backend.backend() == "tensorflow" and self._steps is None
        return 2 if twice else 1


_ENDLESS, _UNKNOWN, _ARRAYS = -1, -2, 0  # the first two as in tf.data


def _length(data: Any) -> int | None:
    """The batches of an epoch, or one of the constants; `None` for data that has no places."""
    if data is None:
        return None
    if isinstance(data, keras.utils.PyDataset):
        return _ENDLESS if data.num_batches is None else int(data.num_batches)
    if _is_dataset(data):
        return int(data.cardinality())
    return _ARRAYS if is_arrays(data) else None


def _is_dataset(data: Any) -> bool:
    return hasattr(data, "cardinality") and hasattr(data, "element_spec")


def draws() -> dict[str, Any]:
    """The states of Python's and NumPy's own random numbers, by which Keras shuffles arrays."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, words, normal = random.getstate()
    return {"numpy": [kind, np.asarray(keys).tolist(), *rest], "python": [version, words, normal]}


def restore_draws(state: Mapping[str, Any]) -> None:
    """Goes on with the random numbers of `draws`."""
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, np.uint32), *rest))
    version, words, normal = state["python"]
    random.setstate((version, tuple(words), normal))
