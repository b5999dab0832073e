"""`Objective`: the model that trains on a task, a teacher and the terms of quantization."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from keras_qat.deep_graphs import room_for_depth
from keras_qat.quantized_layers import QuantizedKernel, quantized_kernels
from keras_qat.quantizers import Quantizer
from keras_qat.training.bit_width_penalty import BitWidthPenalty
from keras_qat.training.code_regularization import code_regularization
from keras_qat.training.discretization_terms import DiscretizationTerms
from keras_qat.training.distillation import Distillation
from keras_qat.training.distribution import replica_share
from keras_qat.training.fit_warnings import warn_of_ties
from keras_qat.training.learned_bit_widths import LearnedWidth, learned_widths

ORIGINALS: weakref.WeakKeyDictionary[keras.Model, keras.Model] = weakref.WeakKeyDictionary()
"""The float model that each model was made from, if that happened in this process."""


class Objective(keras.Model):
    """A Functional model whose training loss has the terms of quantization.

    The loss is `task + code regularization + discretization loss`, and with learned bit widths the
    penalty around it. The task is the compiled loss, or the loss against a teacher.

    Attributes:
        bit_width_penalty: the penalty; `None` if no bit width is learned.
        discretization_log: the metric of the discretization loss; `None` without one.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        with room_for_depth():
            super().__init__(*args, **kwargs)
        self._distillation: Distillation | None = None
        self._evaluates = False
        self._discretization = DiscretizationTerms()
        self.bit_width_penalty = BitWidthPenalty() if learned_widths(self) else None
        self.discretization_log = (
            keras.metrics.Mean("discretization_loss") if self._has_discretization_loss() else None
        )

    def _has_discretization_loss(self) -> bool:
        own = (layer for layer in self.layers if isinstance(layer, Quantizer))
        of_kernels = (kernel.weight_quantizer for kernel in self._kernels)
        return any(each.discretization_loss > 0.0 for each in (*own, *of_kernels))

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training or self.discretization_log is None:
            return super().call(inputs, training=training, mask=mask)
        with self._discretization.collected():
            return super().call(inputs, training=training, mask=mask)

    @property
    def _kernels(self) -> list[QuantizedKernel]:
        return [kernel for layer in self.layers for kernel in quantized_kernels(layer)]

    @property
    def pulled_kernels(self) -> list[QuantizedKernel]:
        """The kernels whose weights or widths the loss pulls, without frozen ones, as in Keras."""
        found = (each for each in self._kernels if each.weight_quantizer.regularized)
        return [each for each in found if each.kernel.trainable]

    @property
    def learned_widths(self) -> list[LearnedWidth]:
        """Every bit width that training learns; empty if the config fixes the bit widths."""
        return learned_widths(self)

    def task_terms(self) -> list[str]:
        """In words, what the task loss is besides the compiled loss."""
        return [] if self._distillation is None else ["its loss against a teacher"]

    def loss_terms(self) -> list[str]:
        """In words, what the training loss has besides the compiled loss."""
        terms = {
            "its penalty on bit widths": self.bit_width_penalty and self.learned_widths,
            "its code regularization": self.pulled_kernels,
            "its discretization loss": self.discretization_log,
        }
        return [*(term for term, found in terms.items() if found), *self.task_terms()]

    def meets_targets(self) -> bool:
        """Whether every bit width has met its target, frozen or not, so that the model deploys."""
        return all(width.meets_target() for width in learned_widths(self, frozen=True))

    def distill_from(
        self,
        teacher: keras.Model | None = None,
        loss: str | Callable[[Any, Any], Any] | None = None,
        label_weight: float = 0.0,
        from_logits: bool | None = None,
    ) -> None:
        """Trains on the outputs of a float model from now on, instead of the labels.

        The training loss becomes `loss + label_weight * compiled loss`, plus regularizers. Weights
        of samples, classes and outputs count as in the compiled loss, and masked steps do not. The
        compiled metrics and evaluation stay as they are. Call this method before `fit`. The teacher
        is neither saved nor trained: after `load_model`, pass it again. It also teaches its errors,
        so augment inputs as in its training, and not more. Layers that augment images inside the
        model act on this model only: the teacher reads the images as they come.

        Args:
            teacher: a model with inputs and outputs like this one; by default the float model that
                `quantize` was given. Inputs and outputs with the same names belong together.
            loss: by default "jeffreys" for classes, for labels that a sigmoid states each by
                itself "jeffreys" of true and false, and "l2" for values. Or one of "jeffreys",
                "soft_cross_entropy", "symmetric_cross_entropy", "kl", "hellinger",
                "jensen_shannon", "l1", "l2" (`keras_qat.training.losses`), or a function of the
                logits of student and teacher that returns one number, or one for each example.
            label_weight: factor of the compiled loss on the labels.
            from_logits: whether the teacher yields logits; by default its graph and its compiled
                loss tell.

        Raises:
            ValueError: an unknown loss, a negative weight, no teacher for a model that was loaded,
                a teacher whose names or shapes do not fit, or outputs that may be anything. What
                an output is shows in its graph or in the compiled loss, so `fit` raises it too.
        """
        teacher = ORIGINALS.get(self) if teacher is None else teacher
        if teacher is None:
            raise ValueError(
                f"Model {self.name!r} does not know the float model that it was made from, because "
                "it was loaded or cloned. Pass the teacher: qmodel.distill_from(float_model)."
            )
        self._distillation = Distillation(self, teacher, loss, label_weight, from_logits)
        self.train_function = None  # an earlier `fit` may have compiled a step without the teacher

    def check_distillation(self) -> None:
        """Looks whether the loss against a teacher fits the outputs, which `compile` may tell.

        Raises:
            ValueError: it does not, or the outputs may be anything.
        """
        if self._distillation is not None:
            self._distillation.compared()

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        return self.quantization_loss(self._task_loss(x, y, y_pred, sample_weight))

    def quantization_loss(self, task_loss: Any) -> Any:
        """The loss to train on: a task loss with the terms of quantization.

        These are the code regularization, the discretization loss, and the penalty on bit widths
        around all. `compute_loss` of this model has them. Call this method in the `train_step` or
        the `compute_loss` of another model that trains this one inside it, such as a distiller,
        once for each training step.

        Args:
            task_loss: a scalar, with all other terms in it.
        """
        loss = ops.convert_to_tensor(task_loss)
        if pulled := self.pulled_kernels:
            loss += replica_share(sum(map(code_regularization, pulled)))
        if self.discretization_log is not None:
            found = self._discretization.taken()
            self.discretization_log.update_state(found)
            loss += replica_share(found)
        if self.bit_width_penalty is None:
            return loss
        return self.bit_width_penalty.add_to(loss, self.learned_widths)

    def _task_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        distillation = self._distillation
        if distillation is None:
            return super().compute_loss(x, y, y_pred, sample_weight)
        if y is None:
            self._check_without_labels(distillation)
        regularization = sum((ops.sum(loss) for loss in self.losses), ops.zeros(()))
        loss = distillation(x, y_pred, sample_weight) + replica_share(regularization)
        if distillation.label_weight == 0.0:
            return loss
        labelled = super().compute_loss(x, y, y_pred, sample_weight) - replica_share(regularization)
        return loss + distillation.label_weight * labelled

    def _check_without_labels(self, distillation: Distillation) -> None:
        needs = {
            "metrics of labels: compile it without metrics": self._compile_metrics is not None,
            "label_weight > 0: leave out label_weight": distillation.label_weight > 0.0,
        }
        for what, needed in needs.items():
            if needed:
                raise ValueError(
                    f"Model {self.name!r} learns from a teacher and gets no labels, but it has "
                    f"{what}, or pass labels. Received: y=None"
                )

    @property
    def term_logs(self) -> list[Any]:
        """The metrics of the terms of the training loss."""
        penalty = self.bit_width_penalty
        terms = [self.discretization_log, None if penalty is None else penalty.log]
        return [each for each in terms if each is not None]

    @property
    def metrics(self) -> list[Any]:
        """The metrics of any Keras model, and in training the terms of the loss by name."""
        hidden = self.term_logs if self._evaluates else []
        return [each for each in super().metrics if all(each is not term for term in hidden)]

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        warn_of_ties(self)
        with self._evaluation():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with self._evaluation():
            return super().test_on_batch(*args, **kwargs)

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Hides the terms of the loss in `metrics`, as evaluation is the same for every model."""
        self._evaluates = True
        try:
            yield
        finally:
            self._evaluates = False
