"""`QuantizedModel`: a Keras model that can state its integers."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from typing import Any

import keras
import numpy as np

from keras_qat.conversion.exact_inference import connect
from keras_qat.conversion.file_needs import check_file, refuse_hdf5
from keras_qat.conversion.next_on_grid import kernel_layers, next_on_grid
from keras_qat.conversion.quantizer_sites import QuantizerSite, quantizer_sites
from keras_qat.conversion.target_inference import TargetInference
from keras_qat.conversion.tensor_names import inherit_labels, set_labels
from keras_qat.conversion.to_integer import (
    to_integer,
)
from keras_qat.file_format import stamped, unstamped
from keras_qat.integer import IntegerGraph
from keras_qat.integer.parts import register_reader
from keras_qat.keras_calls import outer_layer
from keras_qat.keras_graph import (
    build_optimizer,
    exclude_from_weight_decay,
    flat_inputs,
    is_graph,
    layer_name,
    nodes,
    structured_inputs,
)
from keras_qat.keras_precision import MIXED, full_precision, trains
from keras_qat.model_summary import Summarized
from keras_qat.quantizers import LoweringError, PutsOnGrid, Quantizer
from keras_qat.quantizers.custom_gradient import as_tensor
from keras_qat.quantizers.old_names import reading_old_names
from keras_qat.target_values import telling
from keras_qat.training.backend_state import restored
from keras_qat.training.finite_values import NanKeeper, check_predicted
from keras_qat.training.fit_callbacks import TargetCheck, add_callback, watch_rates
from keras_qat.training.fit_warnings import warn_before_fit, warn_of_outer_model
from keras_qat.training.fitted_statistics import add_reestimation
from keras_qat.training.growing_ranges import add_range_growth
from keras_qat.training.learned_bit_widths import learned_widths
from keras_qat.training.loaded_grids import warn_of_other_grids
from keras_qat.training.objective import ORIGINALS, Objective
from keras_qat.training.outer_models import stepping_model, takes_quantization_loss
from keras_qat.training.output_kinds import Kind, output_kinds
from keras_qat.training.own_steps import (
    code_of_steps,
    give_attributes,
    lost_in_a_file,
    stepping_class,
    steps_config,
    steps_of_config,
)
from keras_qat.training.progress_line import add_progress_line
from keras_qat.training.resumed_callbacks import resume_with_backup

_NAMES, _LABELS, _TARGET = "output_names", "output_labels", "target"
_OWN_STEPS, _UNTRAINED, _POLICY = "own_steps", "starts_untrained", "model_dtype_policy"


@keras.saving.register_keras_serializable(package="keras_qat")
class QuantizedModel(Summarized, TargetInference, Objective):
    """The model that `quantize` returns. It trains, saves and loads like any Functional model.

    Inference computes in float32 under every dtype policy, because the integers do.

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
        inherit_labels(self)
        self._outer_name: str | None = None
        self._spared_by: int | None = None  # the id of an optimizer
        self._nan_keeper = NanKeeper(self)
        self.target: str | None = None
        self.starts_untrained = False
        self.plan: Any = None  # the plan of `quantize`; a loaded model has none

    def get_config(self) -> dict[str, Any]:
        named = {_NAMES: list(self.output_names), _LABELS: list(self.output_labels)}
        known: dict[str, Any] = {_TARGET: self.target} if self.target else {}
        known |= {_UNTRAINED: True} if self.starts_untrained else {}
        known |= {_POLICY: self.dtype_policy.name} if self.dtype_policy.name in MIXED else {}
        steps = steps_config(self)
        own = {_OWN_STEPS: steps} if steps else {}
        return stamped(super().get_config()) | (named if self.output_labels else {}) | known | own

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> QuantizedModel:
        """The model with this configuration.

        Raises:
            ValueError: a newer keras_qat saved the configuration, or the class whose steps the
                model trains by is not known.
        """
        config = unstamped(config)
        names, labels = config.pop(_NAMES, None), config.pop(_LABELS, ())
        target, steps = config.pop(_TARGET, None), config.pop(_OWN_STEPS, None)
        untrained, policy = config.pop(_UNTRAINED, False), config.pop(_POLICY, None)
        if steps is None:
            model: QuantizedModel = super().from_config(config, custom_objects)
        else:
            kind, attributes = steps_of_config(steps, custom_objects)
            made: Any = stepping_class(QuantizedModel, kind)
            model = super(QuantizedModel, made).from_config(config, custom_objects)
            give_attributes(model, attributes)
        set_labels(model, names or [layer_name(tensor) for tensor in model.outputs], labels)
        model.target, model.starts_untrained = target, untrained
        model.dtype_policy = policy or model.dtype_policy
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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outer = outer_layer(self)
        self._outer_name = None if outer is None else outer.name
        self._exclude_grids_from_weight_decay(outer or self, once=True)
        if trains(self, kwargs):
            return super().__call__(*args, **kwargs)
        with full_precision(self):
            return super().__call__(*args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if training:
            self._look_outside()
        told = training and self.trains_as_target
        with telling(self.target_values(inputs, mask)) if told else contextlib.nullcontext():
            outputs = super().call(inputs, training=training, mask=mask)
        return self._nan_keeper(flat_inputs(self, inputs), outputs)

    def _look_outside(self) -> None:
        """Warns if another model trains this one, and its loss lacks terms of quantization."""
        outer = stepping_model(self)
        if outer is not None:
            self._exclude_grids_from_weight_decay(outer, once=True)
        name = self._outer_name if outer is None else outer.name
        if name is None or (outer is not None and takes_quantization_loss(outer)):
            return
        warn_of_outer_model(self.name, name, self.loss_terms())

    def fit(self, *args: Any, reestimate: bool | None = None, **kwargs: Any) -> Any:
        """Trains like any Keras model. Warns first if this `fit` would not end as expected.

        Args:
            args, kwargs: see `keras.Model.fit`.
            reestimate: whether to re-estimate BatchNormalization before validations, after epochs
                and at the end, from 4,096 samples as they come in training, augmentation included.
                `None`: if a tensor has at most 2 bits, no `BatchNormReestimation` is passed, and
                training steps do not compute as the target.
        """
        arguments = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        self.check_distillation()
        warn_before_fit(self, arguments)
        build_optimizer(self)
        if self.starts_untrained:
            add_range_growth(self, arguments)
        reestimation = add_reestimation(self, arguments, reestimate)
        if self.target is not None:
            add_callback(self, arguments, TargetCheck(self.target), first=False)
        add_progress_line(self, arguments)
        watch_rates(arguments)
        resume_with_backup(self, arguments)
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

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves like any Keras model, and warns of code of yours that loading will need.

        Raises:
            ValueError: a layer in float that no file can state, or a path that ends in `.h5` or
                `.hdf5`. Nothing is written.
        """
        refuse_hdf5(self, filepath)
        check_file(self, code_of_steps(self), lost_in_a_file(self))
        super().save(filepath, *args, **kwargs)

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Loads weights like any Keras model, and warns of weights for grids of other bits.

        Files with old names of quantizers load too.
        """
        with reading_old_names(self.quantizers, filepath):
            super().load_weights(filepath, *args, **kwargs)
        warn_of_other_grids(self.name, self.named_quantizers)

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
        with restored(self.variables):
            for width in learned_widths(self, frozen=True):
                width.narrow()
            return to_integer(self)

    def next_on_grid(self, layer: str) -> list[str]:
        """The tensors of the integer network in which what a layer yields comes to a grid.

        They are what `tflite_export.export(qmodel, path, outputs=[...])` can export. The list is
        empty if the model has no such layer, or nothing behind the layer is on a grid.

        >>> import keras_qat
        >>> hidden = [keras.layers.Dense(3, name="first"), keras.layers.ReLU(name="relu")]
        >>> model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(2)])
        >>> keras_qat.quantize(model, calibration_data=np.eye(4)).next_on_grid("first")
        ['relu']
        """
        return next_on_grid(self, layer)

    def kernel_layers(self) -> dict[str, str]:
        """The layer whose kernel makes a tensor of the integer network, by the tensor's name.

        A layer of an inner model has its path for a name, such as `"base/conv1"`, if `quantize`
        made this model in this process.

        >>> import keras_qat
        >>> hidden = [keras.layers.Dense(3, name="first"), keras.layers.ReLU(name="relu")]
        >>> model = keras.Sequential([keras.Input((4,)), *hidden])
        >>> keras_qat.quantize(model, calibration_data=np.eye(4)).kernel_layers()
        {'relu': 'first'}
        """
        paths = {} if self.plan is None else {one.name: one.path for one in self.plan.layers}
        return {tensor: paths.get(name) or name for tensor, name in kernel_layers(self).items()}

    @property
    def output_kinds(self) -> list[Kind]:
        """What each output is, as the compiled loss tells: scores or values, and a threshold."""
        return output_kinds(self)

    def float_outputs(self, x: Any, batch_size: int = 64) -> list[np.ndarray] | None:
        """What the float model, from which `quantize` made this one, predicts for these inputs.

        Returns:
            The outputs in their order; `None` if the float model is not known, as after loading.
        """
        original = ORIGINALS.get(self)
        if original is None:
            return None
        fed = structured_inputs(original, x)
        outputs = original.predict(fed, batch_size=batch_size, verbose=0)
        return [np.asarray(each) for each in keras.tree.flatten(outputs)]

    def _check_replaced(self) -> None:
        quantizers = self.replaced_quantizers.values()
        share = min((float(as_tensor(each.replaced_share)) for each in quantizers), default=1.0)
        if share < 1.0:
            raise LoweringError(
                f"Training has replaced {100.0 * share:.0f} % of the elements of {self.name!r} by "
                "their quantized values, so the network that would deploy was not trained. Train "
                "on with keras_qat.callbacks.PEGESchedule to the end of its curriculum."
            )


@register_reader
def _as_quantized(model: Any) -> QuantizedModel | None:
    """A plain Keras model that was built on tensors of a quantized one, as a quantized one."""
    if not isinstance(model, keras.Model) or not is_graph(model):
        return None
    if not any(isinstance(node.operation, PutsOnGrid) for node in nodes(model)):
        return None
    return QuantizedModel(model.inputs, model.outputs, name=model.name)
