"""Pictures of one pair: where its activations differ, over the image; its images beside their reconstructions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from layerscope.report.attribution import NOTICE
from layerscope.report.figure_style import BLACK, DPI, GREY, TITLE, plain_text, short_name
from layerscope.report.figures_reconstruction import colour_bar, sheet, shown, shown_size
from layerscope.report.pictures import Picture, signed_difference, signed_difference_scale
from layerscope.report.sentences import MINUS, short, significant

Mask = NDArray[np.bool_]

_COLOURS = "inferno"
_STRENGTH = 0.62
"""A perceptually uniform colour map, and how much of it covers the greyed image."""

_OUTLINE, _HALO = (0, 255, 255), (0, 0, 0)

_COLUMNS = 6
_TILE, _GAP, _EDGE = 216, 14, 20
_LINE, _HEADING, _FOOT = 20, 60, 104
_CAPTION = 4 * _LINE + 18
"""Pixels of a contact sheet: a tile's longer side, the space between and around tiles, and the room for text."""


@dataclass(frozen=True)
class HeatMap:
    """Where two activations of one layer differ.

    distance: float (h, w), ‖A(p) − B(p)‖₂ over channels at each position, not negative.
    auroc, control: pixel AUROC for the lesion mask and for shifted masks; NaN where there is none.
    """

    layer: str
    distance: NDArray[np.floating]
    auroc: float = math.nan
    control: float = math.nan

    @property
    def top(self) -> float:
        """The distance of the strongest colour: the 99.9th percentile over positions, 0 where nothing differs."""
        return float(np.percentile(self.distance, 99.9))


def heat_map_overlay(image: Picture, distance: NDArray[np.floating], mask: Mask | None, top: float) -> Picture:
    """The greyed image under the distances as colours, dark for 0 and bright for ``top`` and above, mask outlined.

    Args:
        image: uint8 (H, W, 3).
        distance: (h, w), brought to the image's resolution by bilinear interpolation (averages where it is finer).
        mask: bool (H, W) or None; an empty mask has no outline.
        top: distance of the strongest colour; with 0 or less everything has the colour of 0.
    """
    grey = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    height, width = grey.shape
    plane = Image.fromarray(np.asarray(distance, dtype=np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(plane) / top, 0, 1) if top > 0 else np.zeros((height, width))
    return outlined(_blended(grey, share), mask)


def heat_map_sheet(
    id: str,
    positive: Picture,
    negative: Picture,
    mask: Mask | None,
    maps: Sequence[HeatMap],
    shown: str = "‖A − B‖₂ over channels, bilinear to the image",
) -> Figure:
    """A contact sheet of one pair: its two images, then every layer's heat map over the positive image.

    Every layer has its own scale, 0 to the number over its tile, since layers of different size do not share one.
    positive, negative: uint8 (H, W, 3). mask: bool (H, W) or None. shown: what the maps are.
    """
    height, width = positive.shape[:2]
    size = (max(1, round(height * _TILE / max(height, width))), max(1, round(width * _TILE / max(height, width))))
    first, second = _resized(positive, size), _resized(negative, size)
    small = None if mask is None else resized_mask(mask, size)
    tiles = [(["positive"], outlined(first, small)), (["negative"], second)]
    for one in maps:
        lines = [*_lines(one.layer), *_auroc(one), f"scale 0 to {significant(one.top)}"]
        tiles.append((lines, heat_map_overlay(first, one.distance, small, one.top)))
    rows = -(-len(tiles) // _COLUMNS)
    full_width = 2 * _EDGE + _COLUMNS * (_TILE + _GAP) - _GAP
    full_height = _HEADING + rows * (size[0] + _CAPTION) + _FOOT
    figure = Figure(figsize=(full_width / DPI, full_height / DPI), dpi=DPI)
    canvas = np.full((full_height, full_width, 3), 255, dtype=np.uint8)
    for place, (_, picture) in enumerate(tiles):
        top, left = _corner(place, size)
        canvas[top : top + size[0], left : left + size[1]] = picture
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()

    def write(x: float, y: float, text: str, points: float, **look: Any) -> None:
        figure.text(x / full_width, 1 - y / full_height, plain_text(text), fontsize=points, **look)

    write(
        _EDGE, 0.6 * _HEADING, f"Where the layers differ: {short_name(id, 44)}", TITLE, fontweight="bold", va="center"
    )
    for place, (lines, _) in enumerate(tiles):
        top, left = _corner(place, size)
        for above, text in enumerate(reversed(lines)):
            colour = GREY if text.startswith("scale ") else BLACK
            write(left, top - 8 - above * _LINE, text, 6.0, color=colour, va="bottom")
    _scale_bar(figure, full_width, full_height)
    outline = "; cyan: lesion mask" if small is not None and small.any() else ""
    note = f"{shown}; each layer has its own scale, given over it{outline}."
    write(_EDGE + 1.6 * _TILE, full_height - 0.6 * _FOOT, note, 6.5, color=GREY, va="center")
    if any(math.isfinite(one.auroc) for one in maps):
        control = "AUROC: pixels of the mask against the others; in brackets, for shifted masks."
        write(_EDGE + 1.6 * _TILE, full_height - 0.36 * _FOOT, control, 6.5, color=GREY, va="center")
    write(full_width - _EDGE, full_height - 0.14 * _FOOT, NOTICE, 6.0, color=GREY, va="center", ha="right")
    return figure


def reconstruction_figure(
    positive: Picture,
    negative: Picture,
    recon_positive: Picture,
    recon_negative: Picture,
    mask: Mask | None = None,
) -> Figure:
    """Originals left, reconstructions beside them, and signed differences of luminance along rows and columns.

    The third column is reconstruction − original; the third row is positive − negative, of the originals and of the
    reconstructions on one scale, so that it shows how much of the difference survives. All uint8 (H, W, 3).
    """
    size = shown_size(positive.shape[:2], 3, 160, 512)
    outline = None if mask is None else resized_mask(mask, size)
    along = signed_difference_scale([(positive, recon_positive), (negative, recon_negative)])
    across = signed_difference_scale([(negative, positive), (recon_negative, recon_positive)])
    blank = np.full((*size, 3), 255, dtype=np.uint8)

    def row(original: Picture, recon: Picture) -> list[Picture]:
        return [shown(one, size) for one in (original, recon, signed_difference(original, recon, along))]

    first = row(positive, recon_positive)
    change = [signed_difference(negative, positive, across), signed_difference(recon_negative, recon_positive, across)]
    rows = [
        [outlined(first[0], outline), *first[1:]],
        row(negative, recon_negative),
        [*(outlined(shown(one, size), outline) for one in change), blank],
    ]
    names = ["original", "reconstruction", f"reconstruction {MINUS} original\nlimit {along:.0f} levels"]
    labels = ["positive", "negative", f"positive\n{MINUS} negative\nlimit\n{across:.0f} levels"]
    figure = sheet(rows, labels, names, "Images and reconstructions")
    note = "8-bit levels of luminance; red: brighter"
    if outline is not None and outline.any():
        note += "\ncyan outline: lesion mask"
    colour_bar(figure, "limit", note)
    figure.text(0.99, 0.01, NOTICE, fontsize=6.0, color=GREY, ha="right", va="bottom")
    return figure


def _blended(grey: NDArray[np.float64], share: NDArray[np.float64]) -> Picture:
    colours = matplotlib.colormaps[_COLOURS](share)[..., :3] * 255
    return ((1 - _STRENGTH) * grey[..., None] + _STRENGTH * colours).round().astype(np.uint8)


def outlined(picture: Picture, mask: Mask | None) -> Picture:
    """The picture with a thin line just inside the mask's edge and a dark one outside, visible on any ground."""
    if mask is None or not mask.any():
        return picture
    thickness = math.ceil(max(mask.shape) / 200)
    result = picture.copy()
    result[binary_dilation(mask, iterations=thickness) & ~mask] = _HALO
    result[mask & ~binary_erosion(mask, iterations=thickness, border_value=1)] = _OUTLINE
    return result


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    method = Image.Resampling.BOX if picture.shape[0] > size[0] else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), method))


def resized_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """True where any of the mask falls on a pixel: a lesion smaller than one stays visible."""
    grey = Image.fromarray(mask.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BOX)
    return np.asarray(np.asarray(grey) > 0)


def _corner(place: int, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left pixel of a tile."""
    row, column = divmod(place, _COLUMNS)
    return _HEADING + _CAPTION + row * (size[0] + _CAPTION), _EDGE + column * (_TILE + _GAP)


def _lines(name: str, room: int = 23) -> list[str]:
    """A layer's name in one line or in two, broken at a dot."""
    if len(name) <= room:
        return [name]
    cut = name.rfind(".", 0, room)
    cut = cut + 1 if cut > 0 else room
    return [name[:cut], short_name(name[cut:], room)]


def _auroc(one: HeatMap) -> list[str]:
    if not math.isfinite(one.auroc):
        return []
    return [f"AUROC {short(one.auroc, 2)}" + (f" ({short(one.control, 2)})" if math.isfinite(one.control) else "")]


def _scale_bar(figure: Figure, full_width: int, full_height: int) -> None:
    """The colours as they look on a mid-grey image."""
    box = (_EDGE / full_width, 0.52 * _FOOT / full_height, 1.4 * _TILE / full_width, 0.16 * _FOOT / full_height)
    axes = figure.add_axes(box)
    share = np.linspace(0, 1, 256)[None]
    axes.imshow(_blended(np.full(share.shape, 128.0), share), aspect="auto")
    axes.set_xticks([0, 255], ["0", "number over tile"], fontsize=6.0, color=BLACK)
    axes.get_xticklabels()[1].set_horizontalalignment("right")
    axes.set_yticks([])
    axes.tick_params(length=2, width=0.6, pad=2)
    for side in axes.spines.values():
        side.set_visible(False)
