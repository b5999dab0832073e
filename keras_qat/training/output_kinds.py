"""What the outputs of a model are, scores or values, as its compiled loss tells."""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.keras_graph import functional

Kind = tuple[str | None, float | None]
"""`"scores"`, `"values"` or `None` if nothing tells, and the threshold of single scores."""

_UNKNOWN: Kind = (None, None)
_LARGEST_DECIDES = (
    *("categorical_crossentropy", "sparse_categorical_crossentropy", "categorical_hinge"),
    *("categorical_focal_crossentropy", "categorical_generalized_cross_entropy", "kl_divergence"),
)
_SIDE_DECIDES = ("binary_crossentropy", "binary_focal_crossentropy")
_SIGN_DECIDES = ("hinge", "squared_hinge")
_OF_VALUES = (
    *("mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "huber"),
    *("mean_squared_logarithmic_error", "log_cosh", "cosine_similarity"),
)


def output_kinds(model: keras.Model) -> list[Kind]:
    """The kind of every output, in their order.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> output_kinds(model)
    [(None, None)]
    >>> model.compile("sgd", "mse")
    >>> output_kinds(model)
    [('values', None)]
    """
    names = functional(model).output_names
    compiled = getattr(model, "_compile_loss", None)
    loss = getattr(compiled, "_user_loss", None)
    if isinstance(loss, dict):
        keys = getattr(model, "output_labels", None) or names
        return [kind_of(loss.get(n, loss.get(key))) for n, key in zip(names, keys, strict=True)]
    losses = keras.tree.flatten(loss) if isinstance(loss, list | tuple) else [loss] * len(names)
    return (
        [kind_of(each) for each in losses] if len(losses) == len(names) else [_UNKNOWN] * len(names)
    )


def kind_of(loss: Any) -> Kind:
    """The kind of an output that is trained with a loss of Keras.

    >>> kind_of("mse"), kind_of("sparse_categorical_crossentropy")
    (('values', None), ('scores', None))
    >>> kind_of(keras.losses.BinaryCrossentropy(from_logits=True))
    ('scores', 0.0)
    """
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    function = getattr(loss, "fn", loss)
    if not getattr(function, "__module__", "").startswith("keras."):
        return _UNKNOWN
    name = getattr(function, "__name__", "")
    if name in _LARGEST_DECIDES:
        return "scores", None
    if name in _SIGN_DECIDES:
        return "scores", 0.0
    if name in _SIDE_DECIDES:
        options = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
        return "scores", 0.0 if options.get("from_logits") else 0.5
    return ("values", None) if name in _OF_VALUES else _UNKNOWN
