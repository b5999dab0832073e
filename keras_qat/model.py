"""`QuantizedModel`: a Keras model that can state its integers."""

from __future__ import annotations

import contextlib
import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_qat.conversion.exact_inference import connect
from keras_qat.conversion.quantizer_sites import QuantizerSite, quantizer_sites
from keras_qat.conversion.to_integer import (
    placed_codes,
    quantized_tensors,
    raw_inputs,
    raw_outputs,
    to_integer,
)
from keras_qat.file_format import stamped, unstamped
from keras_qat.integer import IntegerGraph
from keras_qat.keras_graph import (
    build_optimizer,
    exclude_from_weight_decay,
    flat_inputs,
    outer_layer,
    probe_of,
    structured_inputs,
)
from keras_qat.quantized_layers import QuantizedKernel, quantized_kernels
from keras_qat.quantizers import LoweringError, Quantizer
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.old_names import reading_old_names
from keras_qat.training.bit_width_penalty import BitWidthPenalty
from keras_qat.training.code_regularization import code_regularization
from keras_qat.training.distillation import Distillation
from keras_qat.training.distribution import replica_share
from keras_qat.training.finite_values import NanKeeper, check_inputs, check_predicted
from keras_qat.training.fit_warnings import warn_before_fit, warn_of_outer_model
from keras_qat.training.fitted_statistics import add_reestimation
from keras_qat.training.learned_bit_widths import LearnedWidth, learned_widths

_PROBES: weakref.WeakKeyDictionary[keras.Model, keras.Model] = weakref.WeakKeyDictionary()
"""The probe of each model, compiled once for `layer_codes`. A model would save its attributes."""

ORIGINALS: weakref.WeakKeyDictionary[keras.Model, keras.Model] = weakref.WeakKeyDictionary()
"""The float model that each model was made from, if that happened in this process."""


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizedModel(keras.Model):
    """The model that `quantize` returns. It trains, saves and loads like any Functional model.

    The float32 latent weights train, and a `.keras` file holds them. `to_integer` returns the
    integers that deploy.

    If you write your own training step, take the loss from `compute_loss`. It adds the penalty on
    bit widths and the loss against a teacher to the compiled loss (a subclass has to call
    `distill_from` with the teacher):

    ```
    class Mine(keras_qat.QuantizedModel):
        def train_step(self, data):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x, y, y_pred, sample_weight)
                scaled = self.optimizer.scale_loss(loss)  # of mixed_float16
            gradients = tape.gradient(scaled, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
            return self.compute_metrics(x, y, y_pred, sample_weight)


    mine = Mine(qmodel.inputs, qmodel.outputs)
    ```
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        connect(self)
        self._distillation: Distillation | None = None
        self._evaluates = False
        self._outer_name: str | None = None
        self._spared_by: int | None = None  # the id of an optimizer
        self._nan_keeper = NanKeeper(self)
        self.plan: Any = None  # the plan of `quantize`; a loaded model has none
        self.bit_width_penalty = BitWidthPenalty() if learned_widths(self) else None

    def get_config(self) -> dict[str, Any]:
        return stamped(super().get_config())

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> QuantizedModel:
        """The model with this configuration.

        Raises:
            ValueError: a newer keras_qat saved the configuration.
        """
        model: QuantizedModel = super().from_config(unstamped(config), custom_objects)
        return model

    @property
    def grid_warnings(self) -> tuple[str, ...]:
        """Warnings of `quantize` about grids that values of unlike range share."""
        return () if self.plan is None else self.plan.warnings

    @property
    def quantizers(self) -> list[Quantizer]:
        """Every quantizer of weights and activations, in the order of the graph."""
        return list(dict.fromkeys(self.named_quantizers.values()))

    def quantizer_sites(self) -> dict[str, QuantizerSite]:
        """Every quantizer with the kernel or the tensor that it reads, in the order of the graph.

        Names are `"conv/weights"` for kernels and `"relu/activations"` for tensors.
        """
        return quantizer_sites(self)

    @property
    def named_quantizers(self) -> dict[str, Quantizer]:
        """Every quantizer by what it quantizes: `"conv/weights"`, `"relu/activations"`."""
        return {name: site.quantizer for name, site in self.quantizer_sites().items()}

    @property
    def replaced_quantizers(self) -> dict[str, Quantizer]:
        """The part of `named_quantizers` whose elements training replaces step by step."""
        found = self.named_quantizers.items()
        return {name: each for name, each in found if each.replacement is not None}

    @property
    def _kernels(self) -> list[QuantizedKernel]:
        return [kernel for layer in self.layers for kernel in quantized_kernels(layer)]

    @property
    def _pulled_kernels(self) -> list[QuantizedKernel]:
        return [each for each in self._kernels if each.weight_quantizer.code_regularization]

    @property
    def learned_widths(self) -> list[LearnedWidth]:
        """Every bit width that training learns; empty if the config fixes the bit widths."""
        return learned_widths(self)

    def meets_targets(self) -> bool:
        """Whether every learned bit width has met its target, so that the model deploys."""
        return all(width.meets_target() for width in self.learned_widths)

    def distill_from(
        self,
        teacher: keras.Model | None = None,
        loss: str | Callable[[Any, Any], Any] = "jeffreys",
        label_weight: float = 0.0,
        from_logits: bool | None = None,
    ) -> None:
        """Trains on the outputs of a float model from now on, instead of the labels.

        The training loss becomes `loss + label_weight * compiled loss`, plus regularizers. The
        compiled metrics and evaluation stay as they are. Call this method before `fit`. The teacher
        is neither saved nor trained: after `load_model`, pass it again. It also teaches its errors,
        so augment inputs as in its training, and not more. Layers that augment images inside the
        model act on this model only: the teacher reads the images as they come.

        Args:
            teacher: a model with inputs and outputs like this one; by default the float model that
                `quantize` was given.
            loss: `(student_logits, teacher_logits) -> scalar`, or one of "jeffreys",
                "soft_cross_entropy", "symmetric_cross_entropy", "kl", "hellinger",
                "jensen_shannon", or for regression "l1", "l2" (`keras_qat.training.losses`).
            label_weight: factor of the compiled loss on the labels.
            from_logits: whether the teacher yields logits; by default its graph tells.

        Raises:
            ValueError: an unknown loss, a negative weight, no teacher for a model that was loaded,
                a teacher with other shapes, or one that does not tell whether it yields logits.
        """
        teacher = ORIGINALS.get(self) if teacher is None else teacher
        if teacher is None:
            raise ValueError(
                f"Model {self.name!r} does not know the float model that it was made from, because "
                "it was loaded or cloned. Pass the teacher: qmodel.distill_from(float_model)."
            )
        self._distillation = Distillation(self, teacher, loss, label_weight, from_logits)
        self.train_function = None  # an earlier `fit` may have compiled a step without the teacher

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outer = outer_layer(self)
        self._outer_name = None if outer is None else outer.name
        self._exclude_grids_from_weight_decay(outer or self, once=True)
        return super().__call__(*args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if training and self._outer_name is not None:
            self._warn_of_outer_model()
        outputs = super().call(inputs, training=training, mask=mask)
        return self._nan_keeper(flat_inputs(self, inputs), outputs)

    def _warn_of_outer_model(self) -> None:
        parts = {
            "its penalty on bit widths": self.bit_width_penalty and self.learned_widths,
            "its loss against a teacher": self._distillation,
            "its code regularization": self._pulled_kernels,
        }
        warn_of_outer_model(self.name, self._outer_name, parts)

    def fit(self, *args: Any, reestimate: bool | None = None, **kwargs: Any) -> Any:
        """Trains like any Keras model. Warns first if this `fit` would not end as expected.

        Args:
            args, kwargs: see `keras.Model.fit`.
            reestimate: whether to re-estimate BatchNormalization before validations, after epochs
                and at the end, from 4,096 samples as they come in training, augmentation included.
                `None`: if a tensor has at most 2 bits and no `BatchNormReestimation` is passed.
        """
        arguments = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        warn_before_fit(self, arguments)
        build_optimizer(self)
        reestimation = add_reestimation(self, arguments, reestimate)
        history = super().fit(**arguments)
        if reestimation is not None:
            reestimation.finish()
        return history

    def make_train_function(self, force: bool = False) -> Any:
        self._exclude_grids_from_weight_decay(self)
        return super().make_train_function(force)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        self._exclude_grids_from_weight_decay(self)  # for training loops without `fit`
        return super().train_step(*args, **kwargs)

    def _exclude_grids_from_weight_decay(self, trained: Any, once: bool = False) -> None:
        """Keeps weight decay from pulling scales, ranges and logarithms to 0.

        Args:
            trained: the model whose optimizer trains them: this one, or one around it.
            once: whether to do nothing if the optimizer is the same as last time.
        """
        optimizer = getattr(trained, "optimizer", None)
        if optimizer is not None and not (once and id(optimizer) == self._spared_by):
            self._spared_by = id(optimizer)
            found = [each for one in self.quantizers for each in one.trainable_variables]
            exclude_from_weight_decay(optimizer, found)

    def predict(
        self, x: Any, batch_size: Any = None, verbose: Any = "auto", steps: Any = None, **more: Any
    ) -> Any:
        """Predicts like any Keras model.

        Raises:
            ValueError: also for inputs that hold NaN, which integers cannot state.
        """
        outputs = super().predict(x, batch_size, verbose, steps, **more)
        check_predicted(self, self._nan_keeper, x, outputs, steps)
        return outputs

    def predict_on_batch(self, x: Any) -> Any:
        outputs = super().predict_on_batch(x)
        check_predicted(self, self._nan_keeper, x, outputs)
        return outputs

    def quantize(self, mode: Any = None, config: Any = None, **kwargs: Any) -> None:
        """Refuses the quantization of Keras, which would change the latent weights.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"Model {self.name!r} is quantized by keras_qat already: quantize() of Keras would "
            "overwrite the weights that train. Quantize the float model with one of the two. "
            f"Received: quantize({mode!r})"
        )

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Exports like any Keras model, and warns that the file computes in float."""
        warnings.warn(
            f"{self.name!r}.export() writes a file that computes in float, with the rounding of "
            "the grids in it. For the integers, call tflite_export.export(qmodel, 'model.tflite').",
            stacklevel=2,
        )
        return super().export(*args, **kwargs)

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Loads weights like any Keras model, also from files with old names of quantizers."""
        with reading_old_names(self.quantizers, filepath):
            super().load_weights(filepath, *args, **kwargs)

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
        loss = self._task_loss(x, y, y_pred, sample_weight)
        if pulled := self._pulled_kernels:
            loss += replica_share(sum(map(code_regularization, pulled)))
        if self.bit_width_penalty is None:
            return loss
        return self.bit_width_penalty.add_to(loss, self.learned_widths)

    def _task_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        distillation = self._distillation
        if distillation is None:
            return super().compute_loss(x, y, y_pred, sample_weight)
        regularization = sum((ops.sum(loss) for loss in self.losses), ops.zeros(()))
        loss = replica_share(distillation(x, y_pred) + regularization)
        if distillation.label_weight == 0.0:
            return loss
        labelled = super().compute_loss(x, y, y_pred, sample_weight) - replica_share(regularization)
        return loss + distillation.label_weight * labelled

    @property
    def metrics(self) -> list[Any]:
        """The metrics of any Keras model, and in training the terms of the bit-width penalty."""
        penalty = self.bit_width_penalty
        hidden = None if penalty is None or not self._evaluates else penalty.log
        return [metric for metric in super().metrics if metric is not hidden]

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self._evaluation():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with self._evaluation():
            return super().test_on_batch(*args, **kwargs)

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Hides the penalty in `metrics`: evaluation returns the metrics of any Keras model."""
        self._evaluates = True
        try:
            yield
        finally:
            self._evaluates = False

    def to_integer(self) -> IntegerGraph:
        """The learned integer network.

        Raises:
            LoweringError: a part of the model has no exact integer form, or holds NaN or infinity;
                or training has not replaced all elements yet.
        """
        self._check_replaced()
        return to_integer(self)

    def planned_integer(self) -> IntegerGraph:
        """The integer network with all bit widths at their targets, to plan memory before training.

        Raises:
            LoweringError: a part of the model has no exact integer form, or holds NaN or infinity.
        """
        planned = type(self).from_config(self.get_config())
        planned.set_weights(self.get_weights())
        for width in planned.learned_widths:
            width.narrow()
        return to_integer(planned)

    def _check_replaced(self) -> None:
        quantizers = self.replaced_quantizers.values()
        share = min((float(as_tensor(each.replaced_share)) for each in quantizers), default=1.0)
        if share < 1.0:
            raise LoweringError(
                f"Training has replaced {100.0 * share:.0f} % of the elements of {self.name!r} by "
                "their quantized values, so the network that would deploy was not trained. Train "
                "on with keras_qat.callbacks.PEGESchedule to the end of its curriculum."
            )

    def layer_codes(self, x: Any, batch_size: int = 64) -> dict[str, np.ndarray]:
        """The codes that this model computes from float inputs in inference.

        Args:
            x: inputs as for `predict`.
            batch_size: as for `predict`.

        Returns:
            int8 arrays by tensor name of the integer graph: every input, and every tensor that
            a quantizer yields. Inputs that only layers in float read, and outputs that they yield,
            are returned as they are.

        Raises:
            ValueError: inputs that hold NaN.
        """
        check_inputs(self, self._nan_keeper, x)
        sites, raw = quantized_tensors(self), raw_inputs(self) | raw_outputs(self)
        if self not in _PROBES:
            outputs = {name: site.tensor for name, site in sites.items()}
            outputs |= {name: each.tensor for name, each in raw.items()}
            _PROBES[self] = probe_of(self, outputs)
        fed = structured_inputs(self, x)
        values = _PROBES[self].predict(fed, batch_size=batch_size, verbose=0)
        codes = {name: placed_codes(values[name], site.quantizer) for name, site in sites.items()}
        return codes | {name: values[name].astype(each.dtype) for name, each in raw.items()}
