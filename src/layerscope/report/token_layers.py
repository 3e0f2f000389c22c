"""How layers are called on an axis and over a tile."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def numbered_layers(layers: Sequence[str], most: int = 6) -> tuple[str, dict[int, str]]:
    """What the axis of the layers is called, and which rows are marked how: by the numbers in their names, if any.

    >>> numbered_layers(["embeddings", "encoder.layers.0", "encoder.layers.1"])
    ('layer of encoder.layers', {1: '0', 2: '1'})
    >>> numbered_layers(["conv1", "head"])
    ('layer, in order of computation', {0: '1', 1: '2'})
    """
    found = [re.fullmatch(r"(.+?)\.(\d+)", name) for name in layers]
    stems = {match[1] for match in found if match}
    if len(stems) == 1 and sum(match is not None for match in found) > len(layers) / 2:
        names = {row: match[2] for row, match in enumerate(found) if match}
        called = f"layer of {next(iter(stems))}"
    else:
        names = {row: str(row + 1) for row in range(len(layers))}
        called = "layer, in order of computation"
    rows = list(names)
    # From the last one back: what is said of the model is mostly said of its last layer.
    step = math.ceil(len(rows) / most)
    kept = sorted(rows[::-step])
    if kept[0] - rows[0] > step / 2:
        kept.insert(0, rows[0])
    return called, {row: names[row] for row in kept}


def layer_tails(layers: Sequence[str]) -> list[str]:
    """Names of layers without what they begin with in common, but for its last part.

    >>> layer_tails(["vision_model.encoder.layers.0", "vision_model.encoder.layers.1"])
    ['layers.0', 'layers.1']
    >>> layer_tails(["blocks.0", "norm"])
    ['blocks.0', 'norm']
    """
    parts = [name.split(".") for name in layers]
    common = 0
    while all(len(one) > common + 1 and one[: common + 1] == parts[0][: common + 1] for one in parts):
        common += 1
    return [".".join(one[max(0, common - 1) :]) for one in parts]
