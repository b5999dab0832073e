"""Keras privates: what an optimizer remembers of each variable that it trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keras import ops

_POWERS = {
    "_model_variables_moving_average": 1,
    "_accumulated_gradients": -1,
    "momentums": -1,
    "_momentums": -1,
    "_average_gradients": -1,
    "_m": -1,
    "_u": -1,
    "_velocities": -2,
    "adam_velocities": -2,
    "_velocity_hats": -2,
    "_accumulators": -2,
    "_accumulated_grads": -2,
    "_accumulated_delta_vars": 2,
    "_r": -2,
    "_c": -2,
    "_v": -2,
}
"""By the list of an optimizer, the power of a variable's unit in what the list holds. Averages of
values have its unit, gradients one over it, and squares the square."""

_OTHER_POWERS = {"RMSprop": {"_momentums": 0}, "ScheduleFreeAdamW": {"_momentums": 1}}
"""Steps that are divided by the size of gradients have no unit; here an average is called so."""


def rescale_memory(optimizer: Any, variable: Any, factor: float) -> None:
    """Brings what an optimizer remembers of a variable into its new unit.

    An optimizer that knows nothing of the variable stays as it is.

    Args:
        optimizer: any optimizer, also with others inside it.
        variable: a trained variable.
        factor: what its values have been multiplied by, with the same meaning.
    """
    for power, slot in _slots(optimizer, variable):
        if power:
            slot.assign(slot * factor**power)


def restart_averages(optimizer: Any, variable: Any) -> None:
    """Lets the averages of a variable in an optimizer start anew, at its present value.

    Args:
        optimizer: any optimizer, also with others inside it.
        variable: a trained variable.
    """
    for power, slot in _slots(optimizer, variable):
        if power == 1:
            slot.assign(ops.copy(variable))  # JAX gives buffers away, so each has its own


def averages_weights(optimizer: Any) -> bool:
    """Whether an optimizer, or one inside it, keeps averages of the weights (`use_ema`)."""
    return any(each.use_ema for each in _with_inner(optimizer) if hasattr(each, "use_ema"))


def _with_inner(optimizer: Any) -> Iterator[Any]:
    """An optimizer, and those inside it."""
    if optimizer is not None:
        yield optimizer
        for one in (
            *getattr(optimizer, "optimizers", ()),
            getattr(optimizer, "inner_optimizer", None),
        ):
            yield from _with_inner(one)


def _slots(optimizer: Any, variable: Any) -> Iterator[tuple[int, Any]]:
    """What an optimizer holds for a variable, each with the power of its unit."""
    for one in _with_inner(optimizer):
        index = getattr(one, "_trainable_variables_indices", {}).get(_key(one, variable))
        if index is None:
            continue
        for name, power in {**_POWERS, **_OTHER_POWERS.get(type(one).__name__, {})}.items():
            slots = getattr(one, name, None)
            slot = slots[index] if isinstance(slots, list) and index < len(slots) else None
            if slot is not None and tuple(slot.shape) == tuple(variable.shape):
                yield power, slot


def _key(optimizer: Any, variable: Any) -> Any:
    return optimizer._var_key(variable) if hasattr(optimizer, "_var_key") else None
