"""Pictures of samples: signed differences on one scale, and enlarged crops where most has changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion, uniform_filter

Picture = NDArray[np.uint8]

_PANEL = 256
_GAP = 6
_FONT = 15
_LINE = 24
"""Pixels: an enlarged crop's side, the space between two, and the size and height of a line of text."""


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
    least 32 pixels, and is enlarged without smoothing, so that a lesion of three pixels can be seen. A title and a
    caption over each panel say what is shown; scale: 8-bit levels of the difference's strongest colour.
    """
    change = _change(images["real"], images["recon"])
    height, width = change.shape
    side = min(side or max(32, min(height, width) // 4), height, width)
    local = uniform_filter(np.abs(change), size=max(3, side // 8), mode="nearest") * _inside(images["real"], side // 4)
    y, x = np.unravel_index(int(local.argmax()), local.shape)
    top = int(np.clip(y - side // 2, 0, height - side))
    left = int(np.clip(x - side // 2, 0, width - side))
    window = (slice(top, top + side), slice(left, left + side))
    panels = {_caption(name): image[window] for name, image in images.items()}
    panels[f"difference, blue −{scale:.0f} to red +{scale:.0f}"] = _colours(change[window], scale)
    where = f"Place of the largest pixel change, {side} × {side} pixels"
    title = f"{where}; difference: recon − original, in levels of 255"
    # The first line is the title, the second holds the captions.
    canvas = Image.new("RGB", (len(panels) * (_PANEL + _GAP) - _GAP, 2 * _LINE + _PANEL), "white")
    draw, font = ImageDraw.Draw(canvas), _font()
    draw.text((2, 3), title, fill="black", font=font)
    for place, (caption, panel) in enumerate(panels.items()):
        edge = place * (_PANEL + _GAP)
        draw.text((edge + 2, _LINE + 2), _fitting(caption, font), fill="black", font=font)
        enlarged = Image.fromarray(panel).resize((_PANEL, _PANEL), Image.Resampling.NEAREST)
        canvas.paste(enlarged, (edge, 2 * _LINE))
    return np.asarray(canvas)


def _caption(condition: str) -> str:
    return {"real": "original", "recon": "reconstruction"}.get(condition, f"noisy, {condition}")


def _font() -> ImageFont.FreeTypeFont:
    """The font of the figures, which comes with matplotlib."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", _FONT)


def _fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    """The text, or as much of it as one panel is wide."""
    if font.getlength(text) <= _PANEL:
        return text
    while font.getlength(f"{text}…") > _PANEL:
        text = text[:-1]
    return f"{text}…"


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
