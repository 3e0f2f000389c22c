"""What each map of an image's tokens is, and where its values stand in the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.artifacts.token_maps import NEIGHBOURS, ImageTokens
from layerscope.errors import ConfigurationError, listed

Map = NDArray[np.floating]


@dataclass(frozen=True)
class TokenMap:
    """A kind of map.

    title: in figures. file: its name in files, without suffix.
    down, right: place of the first value's upper left corner in patches: a neighbour's similarity stands between the
    two patches it is of, and has the size of one.
    """

    title: str
    file: str
    down: float = 0.0
    right: float = 0.0

    def edges(self, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of a map (h, w) in patches from the picture's upper left corner."""
        return self.right, self.right + shape[1], self.down + shape[0], self.down


MAPS: dict[str, TokenMap] = {
    "horizontal_right": TokenMap("horizontal neighbours (→)", "horizontal_similarity", right=0.5),
    "vertical_down": TokenMap("vertical neighbours (↓)", "vertical_similarity", down=0.5),
    "diagonal_down_right": TokenMap("diagonal neighbours (↘)", "diagonal_down_right_similarity", 0.5, 0.5),
    "diagonal_down_left": TokenMap("diagonal neighbours (↙)", "diagonal_down_left_similarity", 0.5, 0.5),
    "cls_similarity": TokenMap("patch to CLS", "cls_similarity"),
    "seed_similarity": TokenMap("patch to seed patch", "seed_similarity"),
    "box_similarity": TokenMap("patch to mean of box", "box_similarity"),
    "text_similarity": TokenMap("patch to text", "text_similarity"),
    "norms": TokenMap("token norms", "norms"),
    "token_change": TokenMap("token change (1 − cosine)", "token_change"),
}
"""In the order in which they are shown."""


def shown_maps(tokens: ImageTokens) -> list[str]:
    """Names of the maps of ``MAPS`` that exist, in order."""
    return [name for name in MAPS if name in tokens.maps]


def last_map(tokens: ImageTokens, name: str) -> Map:
    """(h, w) of the last chosen layer.

    Raises:
        ConfigurationError: there is no such map.
    """
    if name not in tokens.maps or name not in MAPS:
        raise ConfigurationError(
            f"A picture of the map {name!r} of {tokens.id!r} was asked for, and there is none. "
            f"There are: {listed(shown_maps(tokens))}."
        )
    values: Map = tokens.maps[name][-1]
    return values


def map_title(tokens: ImageTokens, name: str) -> str:
    """The map's title; what patches are compared with is told by the model."""
    if name == "cls_similarity" and tokens.cls_source == "pooled":
        return "patch to pooled token"
    return MAPS[name].title


def absence(tokens: ImageTokens, name: str) -> str:
    """Why there is nothing to show of a map; "" where there is."""
    rows, columns = tokens.grid_size
    if name in NEIGHBOURS and (name not in tokens.maps or tokens.maps[name].size == 0):
        if name == "horizontal_right" and columns == 1:
            return "one column:\nno horizontal neighbours"
        if name == "vertical_down" and rows == 1:
            return "one row:\nno vertical neighbours"
        if min(rows, columns) == 1:
            return f"one {'row' if rows == 1 else 'column'}:\nno diagonal neighbours"
    if name in tokens.maps:
        return ""
    if name == "cls_similarity":
        return "not asked for" if "cls" in tokens.prefix else "no CLS token,\nno pooled one asked for"
    return f"no map of the {MAPS[name].title}"


def placed_nearest(
    values: Map, name: str, grid: tuple[int, int], size: tuple[int, int]
) -> tuple[Map, NDArray[np.bool_]]:
    """The map at the resolution of a picture, without smoothing.

    Args:
        values: (h, w), a map of the kind ``name`` on a grid of (R, C) patches that cover the picture.
        size: (H, W) of the picture in pixels.

    Returns:
        float (H, W), for each pixel the value in whose place its middle lies, and bool (H, W): there is one. A map of
        horizontal neighbours leaves half a patch at the left and at the right.
    """
    place = MAPS[name]
    down = np.floor((np.arange(size[0]) + 0.5) * grid[0] / size[0] - place.down).astype(np.int64)
    right = np.floor((np.arange(size[1]) + 0.5) * grid[1] / size[1] - place.right).astype(np.int64)
    covered = ((down >= 0) & (down < values.shape[0]))[:, None] & ((right >= 0) & (right < values.shape[1]))
    if values.size == 0:
        return np.zeros(size), covered
    rows, columns = (np.clip(at, 0, n - 1) for at, n in zip((down, right), values.shape))
    return values[rows[:, None], columns], covered


def common_grid(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """The coarser grid, side by side."""
    return min(first[0], second[0]), min(first[1], second[1])


def on_grid(values: Map, name: str, grid: tuple[int, int], coarser: tuple[int, int]) -> Map:
    """The map as one on a coarser grid: averages over the picture's area that each of its places covers.

    Args:
        values: (h, w), a map of the kind ``name`` on a grid of (R, C) patches.
        coarser: (R', C'), no larger than the grid on either side.
    """
    if grid == coarser:
        return values
    place = MAPS[name]
    fewer = tuple(n - (old - size) for n, old, size in zip(coarser, grid, values.shape))
    along_rows = _overlaps(values.shape[0], grid[0], fewer[0], coarser[0], place.down)
    along_columns = _overlaps(values.shape[1], grid[1], fewer[1], coarser[1], place.right)
    return along_rows @ np.asarray(values, dtype=np.float64) @ along_columns.T


def _overlaps(fine: int, fine_grid: int, coarse: int, coarse_grid: int, offset: float) -> NDArray[np.float64]:
    """(coarse, fine): the share of each fine place in a coarse one, along one side; rows sum to 1."""
    ends = (np.arange(fine + 1) + offset) / fine_grid
    coarse_ends = (np.arange(coarse + 1) + offset) / coarse_grid
    upper = np.minimum(coarse_ends[1:, None], ends[None, 1:])
    lower = np.maximum(coarse_ends[:-1, None], ends[None, :-1])
    shared = np.clip(upper - lower, 0, None)
    return np.asarray(shared / shared.sum(axis=1, keepdims=True))
