"""`Estimator`: a named rule for the gradient through rounding."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from keras_qat.tensors import Tensor

Axes = tuple[int, ...]


class GridStep(NamedTuple):
    """The steps of the grid that a tensor is rounded to.

    Attributes:
        size: the step, in the units of the tensor.
        count: the number of steps from the lowest to the highest code; `noise / count` is in
            ranges.
        axes: the axes of the tensor along which one step is shared.
    """

    size: Tensor
    count: Tensor
    axes: Axes


@dataclasses.dataclass(frozen=True)
class Estimator:
    """A rule for the gradient through rounding, chosen by name.

    Rounding adds noise: a position `v` on the grid, in steps, becomes the code `q = v + e` with
    `e` in [-1/2, 1/2]. The derivative of rounding is useless, so an estimator states a gradient.
    It is a pure function `rule(upstream, noise, step, **options)` of the gradient `g` of the
    rounded value, the noise `e` and the `GridStep`. It returns the gradient of the unrounded
    value, element by element. The quantizer decides what is clipped and which gradient its step
    gets.

    Names and options:

    * `"ste"`: straight through.
    * `"ewgs"`: `delta`, in steps.
    * `"aewgs"`: `delta` from the data.
    * `"dsq"`: `sharpness` of the soft staircase, and whether it is `learned`.
    * `"pege"`: `strength` and `weighting` of the pull to the nearest code.

    Args:
        name: a registered name.
        options: options of the rule; an option that is left out has its default.

    Raises:
        ValueError: the name is not registered, or the rule does not have an option.

    >>> float(Estimator("ewgs", {"delta": 0.5})(upstream=2.0, noise=-0.5, step=None))
    2.5
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in _RULES:
            raise ValueError(f"The estimator must be one of {names()}. Received: {self.name!r}")
        known = list(_RULES[self.name].options)
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            raise ValueError(
                f"The estimator {self.name!r} has the options {known}. Received: {unknown}"
            )
        object.__setattr__(self, "options", dict(self.options))

    def __call__(self, upstream: Tensor, noise: Tensor, step: Any) -> Tensor:
        """The gradient of the unrounded value, in the shape of `noise`."""
        return _RULES[self.name].function(upstream, noise, step, **self.options)

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted(self.options.items()))))

    @property
    def passes_through(self) -> bool:
        """Whether the gradient is `upstream` itself, at no cost."""
        return self.name == "ste"

    @property
    def keeps_noiseless(self) -> bool:
        """Whether the gradient of an element without noise stays as it is."""
        return _RULES[self.name].keeps_noiseless

    @property
    def elementwise(self) -> bool:
        """Whether the gradient of an element depends on its own noise alone."""
        return _RULES[self.name].elementwise

    @property
    def trained(self) -> dict[str, tuple[float, Callable[..., Tensor]]]:
        """The options that train: name -> start, and the function whose derivative trains them.

        An option trains if the rule can train it and the option `learned` is true.
        """
        rule = _RULES[self.name]
        options = {**rule.options, **self.options}
        if not options.get("learned"):
            return {}
        return {name: (options[name], soft) for name, soft in rule.trained.items()}

    @property
    def variables(self) -> dict[str, float]:
        """The options that may change while a model trains, with their starting values."""
        rule = _RULES[self.name]
        options = {**rule.options, **self.options}
        return {name: options[name] for name in rule.variables}

    def at(self, options: Mapping[str, Any]) -> Estimator:
        """A copy with other values for some options."""
        return dataclasses.replace(self, options={**self.options, **options})

    def serialized(self) -> str | dict[str, Any]:
        """The estimator as plain JSON, for `get`."""
        return {"name": self.name, "options": dict(self.options)} if self.options else self.name


@dataclasses.dataclass(frozen=True)
class _Rule:
    """A registered function; the fields are the arguments of `register_estimator`."""

    function: Callable[..., Tensor]
    variables: tuple[str, ...]
    keeps_noiseless: bool
    elementwise: bool
    trained: Mapping[str, Callable[..., Tensor]]

    @property
    def options(self) -> dict[str, Any]:
        """Names and defaults of the options."""
        parameters = list(inspect.signature(self.function).parameters.values())
        return {option.name: option.default for option in parameters[3:]}

    @property
    def origin(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"


_RULES: dict[str, _Rule] = {}


def register_estimator(
    name: str,
    variables: tuple[str, ...] = (),
    keeps_noiseless: bool = False,
    elementwise: bool = False,
    trained: Mapping[str, Callable[..., Tensor]] | None = None,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Registers a pure function as an estimator, for configs and saved models.

    The function takes `(upstream, noise, step)` and options with defaults. A program that loads a
    model with this estimator must register it first.

    Args:
        name: the name in configs.
        variables: numeric options that quantizers keep in variables, so that callbacks may change
            them. The function gets them as tensors.
        keeps_noiseless: whether the function returns `upstream` where `noise` is 0. Progressive
            replacement then needs no mask on the gradient.
        elementwise: whether the gradient of an element depends only on its own noise. Clipped
            elements, which get no gradient, may then have any noise, so `x` is not clipped again.
        trained: positive options that quantizers can train -> `(noise, option) -> soft code`, the
            distance of the code that the rule differentiates from the nearest code, in steps. Such
            a rule has the option `learned`, which turns this on.

    Raises:
        ValueError: another function has the name.

    >>> @register_estimator("halved")
    ... def halved(upstream, noise, step, factor=0.5):
    ...     return factor * upstream
    >>> Estimator("halved")(3.0, 0.1, None)
    1.5
    """

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        rule = _Rule(function, variables, keeps_noiseless, elementwise, trained or {})
        known = _RULES.get(name)
        if known is not None and known.origin != rule.origin:
            raise ValueError(
                f"The estimator name {name!r} is taken by {known.origin}. Choose another name."
            )
        _RULES[name] = rule
        return function

    return register


def get(identifier: Any) -> Estimator:
    """The estimator of a name or of a serialized form; an `Estimator` is returned as it is.

    >>> get("ewgs")
    Estimator(name='ewgs', options={})
    """
    if isinstance(identifier, Estimator):
        return identifier
    if isinstance(identifier, dict) and set(identifier) == {"name", "options"}:
        return Estimator(**identifier)
    return Estimator(identifier)


def names() -> list[str]:
    """The registered names.

    >>> "ewgs" in names()
    True
    """
    return sorted(_RULES)
