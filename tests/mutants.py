"""Files that are wrong in one place: in their bytes, or in a value of their format."""

import io
import json
import random
import zipfile

import numpy as np

HOSTILE = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**70,
    -(2**63),
    0.5,
    1e-45,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "/absolute",
    "int8\0",
    [],
    {},
    [[]],
    [0] * 40,
    {"array": "header"},
    {"class_name": "Dense", "config": {}},
)


def with_changed_bytes(data: bytes, draws: random.Random) -> bytes:
    """A copy with a bit flipped, bytes set, a piece removed or repeated, or the end cut."""
    place = draws.randrange(len(data))
    piece = data[place : place + draws.choice((1, 2, 4, 8, 64))]
    kind = draws.randrange(6)
    if kind == 0:
        return data[:place] + bytes([data[place] ^ 1 << draws.randrange(8)]) + data[place + 1 :]
    if kind == 1:
        return data[:place] + bytes([draws.choice((0, 1, 127, 128, 255))]) + data[place + 1 :]
    if kind == 2:
        return data[:place] + data[place + len(piece) :]
    if kind == 3:
        return data[:place] + piece * draws.choice((2, 1000)) + data[place + len(piece) :]
    if kind == 4:
        value = draws.choice((0, 2**31 - 1, 2**31, 2**32 - 1, 2**16))
        return data[:place] + value.to_bytes(4, "little") + data[place + 4 :]
    return data[:place]


def with_changed_json(text: bytes, draws: random.Random) -> bytes:
    """A copy in which one value, key or entry of the JSON is another."""
    tree = json.loads(text)
    places = list(_places(tree))
    owner, key = draws.choice(places)
    kind = draws.randrange(4)
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, list):
        owner.append(owner[key])
    elif kind == 2:
        other, place = draws.choice(places)
        owner[key] = json.loads(json.dumps(other[place]))
    else:
        owner[key] = draws.choice(HOSTILE)
    if draws.random() < 0.02:
        return b"[" * 100_000 + b"]" * 100_000
    return json.dumps(tree).encode()


def _places(tree):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def with_changed_member(archive: bytes, draws: random.Random, change) -> bytes:
    """A copy of a zip archive in which one member is changed, and whole again for its checksum."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(result, "w") as target:
        names = source.namelist()
        chosen = draws.choice(names)
        for name in names:
            data = source.read(name)
            target.writestr(name, change(name, data, draws) if name == chosen else data)
    return result.getvalue()


def change_graph_member(name: str, data: bytes, draws: random.Random) -> bytes:
    """A changed member of a saved graph: its JSON header, or an array of another shape or type."""
    array = np.load(io.BytesIO(data))
    if name == "header.npy":
        array = np.frombuffer(with_changed_json(array.tobytes(), draws), np.uint8)
    elif draws.random() < 0.3:
        return with_changed_bytes(data, draws)
    else:
        changes = (
            lambda a: a.astype(np.float64),
            lambda a: a.astype(np.complex64),
            lambda a: a.ravel(),
            lambda a: a[..., None],
            lambda a: a[:0],
            lambda a: np.full(a.shape, 127, a.dtype),
            lambda a: np.full(a.shape, np.nan),
            lambda a: np.array(7),
        )
        array = draws.choice(changes)(array)
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
