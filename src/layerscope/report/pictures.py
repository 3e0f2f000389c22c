"""Pictures of samples: signed differences on one scale, and enlarged crops where most has changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion, uniform_filter

Picture = NDArray[np.uint8]

_PANEL = 256
_GAP = 6


def write_png(path: Path, image: Picture) -> None:
    """Writes uint8 (H, W, 3)."""
    Image.fromarray(image).save(path, format="PNG")


def signed_difference_scale(pairs: Sequence[tuple[Picture, Picture]]) -> float:
    """One scale for a set of pairs: the 99.5th percentile of |difference| in luminance, in 8-bit levels, at least 4."""
    if not pairs:
        return 4.0
    return max(4.0, float(np.percentile(np.concatenate([np.abs(_change(a, b)).ravel() for a, b in pairs]), 99.5)))


def signed_difference(original: Picture, other: Picture, scale: float) -> Picture:
    """Luminance of ``other`` minus ``original`` as colours: blue darker, white equal, red brighter; ±scale levels."""
    return _colours(_change(original, other), scale)


def crop_comparison(images: dict[str, Picture], scale: float, side: int | None = None) -> Picture:
    """Original, reconstruction, noisy reconstruction(s) and signed difference around the largest local change.

    The black surround of a fundus or endoscope picture, and its rim, are left out while there is anything else.
    images: "real", "recon" and further conditions, uint8 (H, W, 3). The crop has a quarter of the image's side, at
    least 32 pixels, and is enlarged without smoothing, so that a lesion of three pixels can be seen.
    """
    change = _change(images["real"], images["recon"])
    height, width = change.shape
    side = min(side or max(32, min(height, width) // 4), height, width)
    local = uniform_filter(np.abs(change), size=max(3, side // 8), mode="nearest") * _inside(images["real"], side // 4)
    y, x = np.unravel_index(int(local.argmax()), local.shape)
    top = int(np.clip(y - side // 2, 0, height - side))
    left = int(np.clip(x - side // 2, 0, width - side))
    window = (slice(top, top + side), slice(left, left + side))
    panels = [image[window] for image in images.values()] + [_colours(change[window], scale)]
    enlarged = [np.asarray(Image.fromarray(p).resize((_PANEL, _PANEL), Image.Resampling.NEAREST)) for p in panels]
    gap = np.full((_PANEL, _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for panel in enlarged for part in (panel, gap)][:-1], axis=1)


def _inside(original: Picture, rim: int) -> NDArray[np.bool_]:
    """True ``rim`` pixels inside of a black surround; everywhere if nothing is left."""
    shown = uniform_filter(original.max(axis=2).astype(np.float64), size=3, mode="nearest") > 8
    inside = binary_erosion(shown, iterations=max(1, rim), border_value=1)
    return inside if inside.any() else np.ones_like(inside)


def _change(original: Picture, other: Picture) -> NDArray[np.float64]:
    """Difference in luminance (ITU-R BT.601) in 8-bit levels."""
    return (other.astype(np.float64) - original.astype(np.float64)) @ np.array([0.299, 0.587, 0.114])


def _colours(change: NDArray[np.float64], scale: float) -> Picture:
    colours = matplotlib.colormaps["RdBu_r"](np.clip(change / scale, -1, 1) * 0.5 + 0.5)
    return (colours[..., :3] * 255).round().astype(np.uint8)
