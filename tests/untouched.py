"""The user's model is the same before and after anything that reads it."""

import contextlib

import numpy as np


@contextlib.contextmanager
def untouched(model, x):
    """Asserts that the block changes neither config, nor weights, nor layers, nor outputs."""
    before = _state(model, x)
    yield
    after = _state(model, x)
    assert after["config"] == before["config"]
    assert after["calls"] == before["calls"]
    for now, then in zip(after["arrays"], before["arrays"], strict=True):
        np.testing.assert_array_equal(now, then)


def _state(model, x):
    outputs = model(x)
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    return {
        "config": model.to_json(),
        "calls": [(layer.name, len(layer._inbound_nodes)) for layer in model.layers],
        "arrays": [*(w.numpy() for w in model.weights), *(np.asarray(y) for y in outputs)],
    }
