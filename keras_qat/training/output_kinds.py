"""What the outputs of a model are, scores or values, as its compiled loss tells."""

from __future__ import annotations

from typing import Any

import keras

from keras_qat.keras_graph import functional, output_structure

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
    return [kind_of(loss) for loss in compiled_for_outputs(model, "_user_loss")]


def compiled_for_outputs(model: keras.Model, what: str = "_user_loss") -> list[Any]:
    """What `compile` was given for every output, in their order; `None` where it tells nothing.

    Args:
        model: a model with a layer graph.
        what: `"_user_loss"` or `"_user_loss_weights"`.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", "mse")
    >>> compiled_for_outputs(model)
    ['mse']
    """
    names = functional(model).output_names
    given = getattr(getattr(model, "_compile_loss", None), what, None)
    if isinstance(given, dict):
        keys = output_keys(model)
        return [given.get(name, given.get(key)) for name, key in zip(names, keys, strict=True)]
    found = keras.tree.flatten(given) if isinstance(given, list | tuple) else [given] * len(names)
    return found if len(found) == len(names) else [None] * len(names)


def output_keys(model: keras.Model) -> list[str]:
    """The name of each output for its user: the key in a dict of outputs, or Keras' own name.

    >>> x = keras.Input((4,))
    >>> output_keys(keras.Model(x, {"first": keras.layers.Dense(3)(x)}))
    ['first']
    """
    names = list(functional(model).output_names)
    structure = output_structure(model)
    if isinstance(structure, dict) and len(structure) == len(names):
        keys = {id(tensor): str(key) for key, tensor in structure.items()}
        return [keys[id(tensor)] for tensor in functional(model).outputs]
    return list(getattr(model, "output_labels", None) or names)


def kind_of(loss: Any) -> Kind:
    """The kind of an output that is trained with a loss of Keras.

    >>> kind_of("mse"), kind_of("sparse_categorical_crossentropy")
    (('values', None), ('scores', None))
    >>> kind_of(keras.losses.BinaryCrossentropy(from_logits=True))
    ('scores', 0.0)
    """
    name = _name_of(loss)
    if name in _LARGEST_DECIDES:
        return "scores", None
    if name in _SIGN_DECIDES:
        return "scores", 0.0
    if name in _SIDE_DECIDES:
        return "scores", 0.0 if reads_logits(loss) else 0.5
    return ("values", None) if name in _OF_VALUES else _UNKNOWN


def reads_logits(loss: Any) -> bool:
    """Whether a loss of Keras reads logits: of classes, or single ones.

    >>> reads_logits("binary_crossentropy"), reads_logits("categorical_hinge")
    (False, True)
    """
    if isinstance(loss, keras.losses.Loss) and loss.get_config().get("from_logits"):
        return True
    return _name_of(loss) == "categorical_hinge"


def _name_of(loss: Any) -> str:
    """The name of a loss function of Keras; empty for any other."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    function = getattr(loss, "fn", loss)
    known = getattr(function, "__module__", "").startswith("keras.")
    return getattr(function, "__name__", "") if known else ""
