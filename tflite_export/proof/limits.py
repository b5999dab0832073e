"""How far an exported network may be from the trained model."""

from __future__ import annotations

import dataclasses

from tflite_export.errors import ExportError
from tflite_export.proof.comparison import ModelComparison, OutputError
from tflite_export.targets import Target


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits that `check_limits` applies.

    Attributes:
        max_flip_rate: largest share of layer elements that may differ.
        min_argmax_agreement: smallest share of examples whose largest channel is the same.
        max_output_error: largest mean error of an output of one channel, as a share of its range;
            of an output on no grid, as a share of its largest value.
    """

    max_flip_rate: float
    min_argmax_agreement: float
    max_output_error: float

    @classmethod
    def of(cls, target: Target, **given: float | None) -> Limits:
        """The given limits, and the target's default for every limit that is `None`."""
        names = [field.name for field in dataclasses.fields(cls)]
        own = {name: getattr(target, name) for name in names}
        return cls(**own | {name: value for name, value in given.items() if value is not None})


def check_limits(comparison: ModelComparison, limits: Limits, answers: bool) -> None:
    """Raises an `ExportError` for the first limit that is exceeded.

    Args:
        comparison: the comparison of the exported network with the trained model.
        limits: the limits.
        answers: whether the examples are real, so that outputs are answers. Random examples have no
            clear winner, so their outputs are not checked, unless they are on no grid.
    """
    worst = max(comparison.tensors, key=lambda tensor: tensor.rate, default=None)
    where = f"; worst is {worst.name!r} with {worst.rate:.2%}" if worst else ""
    if comparison.flip_rate > limits.max_flip_rate:
        raise ExportError(
            f"max_flip_rate={limits.max_flip_rate:g} is exceeded: {comparison.flip_rate:.3g} of "
            "the layer elements differ from the trained model under the rounding of "
            f"{comparison.profile!r}{where}. No file was written. Use more activation bits there, "
            "or pass a larger max_flip_rate if the task's accuracy on the integer graph is good "
            "enough."
        )
    agreement = comparison.argmax_agreement
    if answers and agreement is not None and agreement < limits.min_argmax_agreement:
        raise ExportError(
            f"min_argmax_agreement={limits.min_argmax_agreement:g} is missed: {agreement:.3g} of "
            f"{comparison.samples} examples keep their largest output under the rounding of "
            f"{comparison.profile!r}{where}. No file was written. Pass samples like those the "
            "model was trained on, or lower the limit."
        )
    for error in comparison.output_errors if answers else ():
        _check_output(error, limits.max_output_error, f"{comparison.profile!r}{where}")
    for found in comparison.float_outputs:
        if not found.mean_relative <= limits.max_output_error:
            raise ExportError(
                f"max_output_error={limits.max_output_error:.3g} is exceeded: "
                f"{found.from_('the trained model')}, and by {found.mean:.2g} on average. No file "
                "was written. Pass a larger max_output_error if the task's accuracy on the "
                "exported network is good enough."
            )


def _check_output(error: OutputError, limit: float, rounding: str) -> None:
    if error.share_of_range > limit:
        raise ExportError(
            f"max_output_error={limit:.3g} is exceeded: the output {error.name!r} has one channel, "
            "so its error is measured in steps. It differs from the trained model by "
            f"{error.mean_steps:.1f} steps on average (at most {error.max_steps:g}), on a grid of "
            f"{error.levels} levels, under the rounding of {rounding}. No file was written. Use "
            "more bits there, or pass a larger max_output_error if the task's accuracy on the "
            "integer graph is good enough."
        )
