"""Shapes and smooth noise that both phantoms draw with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]

# Parts of the random streams, so that what one part draws never shifts another.
IMAGE, PATIENT, LAYOUT = 0, 1, 2


def stream(seed: int, part: int, index: int) -> np.random.Generator:
    """The random numbers of one image, patient or layout: they depend on nothing else."""
    return np.random.default_rng([seed, part, index])


def disk_patch(
    diameter: float, x: float, y: float, soft: float = 1.0, wobble: NDArray[np.float64] | None = None
) -> tuple[Array, int, int]:
    """A disk as a small patch with values in [0, 1], and the column and row of the patch's upper left pixel.

    The edge falls linearly over ``soft`` pixels around the radius, so a disk of two pixels has the right area at any
    position between pixels. ``wobble`` (K,) are amplitudes of the harmonics 2, 3, ... of the radius, for shapes that
    are not quite round.

    Args:
        diameter: pixels. x, y: centre, where pixel (column c, row r) covers [c, c+1) × [r, r+1).
    """
    radius = diameter / 2
    reach = radius * (1 + (0.0 if wobble is None else float(np.abs(wobble).sum()))) + soft
    left, top = int(np.floor(x - reach)), int(np.floor(y - reach))
    side = int(np.ceil(2 * reach)) + 2
    dx = np.arange(left, left + side, dtype=np.float32)[None, :] + 0.5 - x
    dy = np.arange(top, top + side, dtype=np.float32)[:, None] + 0.5 - y
    edge: NDArray[np.float64] | float = radius
    if wobble is not None:
        angle = np.arctan2(dy, dx)
        edge = radius * (1 + sum(float(a) * np.cos((k + 2) * angle + 2.4 * k) for k, a in enumerate(wobble)))
    coverage = np.clip((edge - np.hypot(dx, dy)) / soft + 0.5, 0, 1)
    return coverage.astype(np.float32), left, top


def window(patch: Array, left: int, top: int, size: int) -> tuple[tuple[slice, slice], Array]:
    """Where a patch lies in a square image of ``size``, and the part of it that does."""
    rows = slice(max(top, 0), max(min(top + patch.shape[0], size), 0))
    columns = slice(max(left, 0), max(min(left + patch.shape[1], size), 0))
    inside = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return (rows, columns), inside


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """(size, size) noise with unit variance at the nodes of a ``cells`` × ``cells`` grid, bicubic between them."""
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))
