"""How far an exported network may be from the trained model."""

from __future__ import annotations

import dataclasses
from typing import Any

from tflite_export.errors import ExportError
from tflite_export.proof.comparison import ModelComparison
from tflite_export.proof.output_difference import OutputDifference
from tflite_export.proof.output_kinds import SCORES, VALUES
from tflite_export.targets import Target

_OF_TIES = 1.0
"""The largest difference, in steps, that rounding makes: a layer on the model's own inputs, rounded
once, may take the other side of a tie."""

_SYSTEMATIC, _ENOUGH = 0.5, 16
"""A channel in which more than every second element differs, of at least 16, is another channel."""

_MANY_TIES = 0.01
"""Share of all elements that lie at ties. MobileNetV2 has 7e-7 of them, and a network that was
trained in bfloat16 5e-6: even coarse grids stay far below."""

_FEW_FLIPS = 1e-3
"""Share of flips from which on a message says where flips come from."""

_ANOTHER_LAYER = (
    "That is no rounding: the integers of the layer state something else. If it has a rule of your "
    "own (keras_qat.register_rule), compare its lower() with its call(). Otherwise please report "
    "it; max_flip_rate=1 writes the file nevertheless."
)

_OTHER_KIND = "If it is {kind}, say so: export(..., outputs={{{name!r}: {kind!r}}})."


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits that `check_limits` applies.

    Attributes:
        max_flip_rate: largest share of layer elements that may differ end to end; `None` for any.
            1 also turns off the check of each layer alone.
        min_argmax_agreement: smallest share of positions of an output of scores that keep their
            answer.
        max_output_error: largest mean error of an output of values, as a share of its range; of an
            output on no grid, as a share of its largest value.
        judges_unknown: whether `min_argmax_agreement` also holds for outputs of unknown kind. If
            not, such an output has to keep one of the last two limits.
    """

    max_flip_rate: float | None
    min_argmax_agreement: float
    max_output_error: float
    judges_unknown: bool = False

    @classmethod
    def of(cls, target: Target, exact: bool, **given: float | None) -> Limits:
        """The given limits, and the default for every limit that is `None`.

        Args:
            target: the target, whose defaults hold.
            exact: whether the trained model computes in the arithmetic of the target. Then nothing
                may differ by default.
            given: the limits that the caller gives.
        """
        own: dict[str, Any] = {
            "max_flip_rate": 0.0 if exact else None,
            "min_argmax_agreement": 1.0 if exact else target.min_argmax_agreement,
            "max_output_error": 0.0 if exact else target.max_output_error,
        }
        known = {name: value for name, value in given.items() if value is not None}
        return cls(**own | known, judges_unknown="min_argmax_agreement" in known)


def check_limits(comparison: ModelComparison, limits: Limits, answers: bool) -> None:
    """Raises an `ExportError` for the first limit that is exceeded.

    Args:
        comparison: the comparison of the exported network with the trained model.
        limits: the limits.
        answers: whether the examples are real, so that outputs are answers. Random examples have no
            clear winner, so their outputs are not checked, unless they are on no grid.
    """
    if limits.max_flip_rate is None or limits.max_flip_rate < 1.0:
        _check_layers_alone(comparison)
    if limits.max_flip_rate is not None and comparison.flip_rate > limits.max_flip_rate:
        raise ExportError(
            f"max_flip_rate={limits.max_flip_rate:g} is exceeded: {comparison.flip_rate:.3g} of "
            "the layer elements differ from the trained model under the rounding of "
            f"{comparison.profile!r}{_worst(comparison)}. No file was written. {_cause(comparison)}"
            "Use more activation bits there, or pass a larger max_flip_rate if the task's accuracy "
            "on the integer graph is good enough."
        )
    for output in comparison.outputs if answers else ():
        _check_output(output, limits, comparison)
    for found in comparison.float_outputs:
        if not found.mean_relative <= limits.max_output_error:
            raise ExportError(
                f"max_output_error={limits.max_output_error:.3g} is exceeded: "
                f"{found.from_('the trained model')}, and by {found.mean:.2g} on average. No file "
                "was written. Pass a larger max_output_error if the task's accuracy on the "
                "exported network is good enough."
            )


def _check_layers_alone(comparison: ModelComparison) -> None:
    """Refuses a graph with a layer that is not what the model computes."""
    worst = comparison.worst_channel
    if worst is None:
        return
    most = worst.mean_steps > _SYSTEMATIC and worst.elements >= _ENOUGH
    if most or worst.max_steps > _OF_TIES:
        raise ExportError(
            f"Channel {worst.channel} of {worst.name!r} differs from the trained model by "
            f"{worst.mean_steps:.2g} steps on average, at most {worst.max_steps:g} "
            f"({worst.elements} elements), on the model's own inputs of this layer. No file was "
            f"written. {_ANOTHER_LAYER}"
        )
    if comparison.exact_flip_rate > _MANY_TIES:
        raise ExportError(
            f"{comparison.exact_flip_rate:.3g} of all elements differ from the trained model where "
            "each layer runs alone, on the model's own inputs; worst is "
            f"{comparison.worst_alone!r}. No file was written. {_ANOTHER_LAYER}"
        )


def _check_output(output: OutputDifference, limits: Limits, comparison: ModelComparison) -> None:
    lost = output.agreement is not None and output.agreement < limits.min_argmax_agreement
    far = output.levels > 0 and output.share_of_range > limits.max_output_error
    if output.kind == SCORES or (output.kind is None and limits.judges_unknown):
        if lost:
            raise ExportError(_too_few_answers(output, limits, comparison))
    elif far and (output.kind == VALUES or lost):
        raise ExportError(
            f"max_output_error={limits.max_output_error:.3g} is exceeded: the output "
            f"{output.name!r} is judged by its values, in steps. It differs from the trained model "
            f"by {output.mean_steps:.1f} steps on average (at most {output.max_steps:g}), on a "
            f"grid of {output.levels} levels, under the rounding of {comparison.profile!r}"
            f"{_worst(comparison)}. No file was written. {_cause(comparison)}Use more bits there, "
            "or pass a larger max_output_error if the task's accuracy on the integer graph is good "
            f"enough. {_OTHER_KIND.format(name=output.name, kind=SCORES)}"
        )


def _too_few_answers(output: OutputDifference, limits: Limits, comparison: ModelComparison) -> str:
    how = "their largest output"
    if output.threshold is not None:
        how = f"their side of {output.threshold:g}"
    places = "examples" if output.positions == comparison.samples else "positions"
    return (
        f"min_argmax_agreement={limits.min_argmax_agreement:g} is missed: {output.agreement:.3g} "
        f"of {output.positions} {places} of the output {output.name!r} keep {how} under the "
        f"rounding of {comparison.profile!r}{_worst(comparison)}. No file was written. "
        f"{_cause(comparison)}Pass samples like those the model was trained on, or lower the "
        "limit. "
        f"{_OTHER_KIND.format(name=output.name, kind=VALUES)}"
    )


def _worst(comparison: ModelComparison) -> str:
    worst = max(comparison.tensors, key=lambda tensor: tensor.rate, default=None)
    return f"; worst is {worst.name!r} with {worst.rate:.2%}" if worst else ""


def _cause(comparison: ModelComparison) -> str:
    """Where flips come from, in words; empty where there are few."""
    if comparison.flip_rate <= _FEW_FLIPS:
        return ""
    alone = f"Each layer alone flips {comparison.exact_flip_rate:.2g} of its elements; "
    if comparison.profile == "tflm":
        return f"{alone}'tflm' rounds twice, and later layers multiply that. "
    return f"{alone}later layers multiply that. "
