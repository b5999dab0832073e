"""The README's Python blocks run as they stand, one after another."""

import pathlib
import re

import keras
import numpy as np
import tensorflow as tf

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_every_python_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv_1"),
            layers.Flatten(name="flatten"),
            layers.Dense(3, name="head"),
        ]
    )
    names = {
        "model": model,
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "x": np.random.default_rng(0).normal(size=(640, 8, 8, 1)).astype(np.float32),
        "y": np.arange(640) % 3,
        "tf": tf,
        "strategy": tf.distribute.get_strategy(),
    }
    names["dataset"] = tf.data.Dataset.from_tensor_slices((names["x"], names["y"])).batch(64)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "model.tflite").exists()
    assert names["report"].mismatches == 0
    assert (tmp_path / "best.keras").exists()
    assert (tmp_path / "capacity.png").exists()
    assert (tmp_path / "memory.png").exists()
    assert (tmp_path / "firmware" / "net_main.cc").exists()
    assert "0 of" in capsys.readouterr().out


def test_it_names_two_commands():
    commands = re.findall(r"```sh\n(python3\.11 .*?)\n```", README.read_text())
    assert [command.split()[-1] for command in commands] == ["examples/quickstart.py", "pytest"]
