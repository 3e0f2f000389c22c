"""Sheets of pictures: originals above reconstructions above their difference, and latent channels as grey tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from layerscope.report.figure_style import BLACK, DPI, GREY, SMALL, TITLE, plain_text, short_name
from layerscope.report.pictures import Picture, signed_difference
from layerscope.report.sentences import MINUS

_GAP = 6
_LEFT, _RIGHT = int(1.12 * DPI), int(0.1 * DPI)
_HEADING, _LINE = int(0.3 * DPI), int(0.13 * DPI)
_FOOT = int(0.55 * DPI)
_NARROWEST = int(3.1 * DPI)
_SHOWN = (160, 512)
"""Pixels of a picture's longer side on a sheet: smaller ones are enlarged by whole factors, larger ones reduced."""


@dataclass(frozen=True)
class PicturedSample:
    """A validation image and what became of it.

    original, reconstruction: uint8 (H, W, 3). latent: float (C, h, w), the posterior's mean. psnr: dB.
    """

    id: str
    original: Picture
    reconstruction: Picture
    latent: NDArray[np.floating]
    psnr: float


def reconstruction_figure(samples: Sequence[PicturedSample], epoch: int, amplify: float) -> Figure:
    """One column per image: original, reconstruction, signed difference in luminance, ``amplify`` times enlarged.

    Colours end at ±255 / ``amplify`` 8-bit levels, named under the sheet, the same at every epoch. The figure is made
    for its own resolution (``figure_style.DPI``), at which each pixel of an enlarged picture is a whole square.
    """
    limit = 255 / amplify
    size = shown_size(samples[0].original.shape[:2], len(samples), *_SHOWN)
    rows = [
        [shown(sample.original, size) for sample in samples],
        [shown(sample.reconstruction, size) for sample in samples],
        [shown(signed_difference(sample.original, sample.reconstruction, limit), size) for sample in samples],
    ]
    names = [f"{_fitting(sample.id, size[1])}\n{sample.psnr:.1f} dB" for sample in samples]
    labels = ["original", "reconstruction", f"difference\n× {amplify:g}"]
    figure = sheet(rows, labels, names, f"Validation images {_when(epoch)}")
    end = f"{limit:.0f}" if limit >= 10 else f"{limit:.2g}"
    colour_bar(figure, end, "8-bit levels of luminance;\nred: brighter than the original")
    return figure


def latent_figure(samples: Sequence[PicturedSample], epoch: int) -> Figure:
    """One column per image: the original, and each latent channel as a grey tile.

    Black and white are the 1st and 99th percentile of the channel over the shown images; the values stand beside it.
    """
    size = shown_size(samples[0].original.shape[:2], len(samples), 160, 160)
    rows = [[shown(sample.original, size) for sample in samples]]
    labels = ["original"]
    for channel in range(len(samples[0].latent)):
        planes = [np.asarray(sample.latent[channel], dtype=np.float64) for sample in samples]
        low, high = np.percentile(np.concatenate([plane.ravel() for plane in planes]), [1, 99])
        flat = not high - low > 1e-6 * max(abs(low), abs(high))
        rows.append([shown(_grey(plane, low, high, flat), size) for plane in planes])
        values = f"constant {_number(low)}" if flat else f"{_number(low)} to {_number(high)}"
        labels.append(f"channel {channel}\n{values}")
    names = [_fitting(sample.id, size[1]) for sample in samples]
    figure = sheet(rows, labels, names, f"Latent channels {_when(epoch)}")
    note = "mean of the posterior; black to white: 1st to 99th\npercentile of the channel over these images"
    figure.text(_LEFT / _width(figure), 0.42 * _FOOT / _height(figure), note, fontsize=SMALL, color=GREY, va="center")
    return figure


def _when(epoch: int) -> str:
    return f"after epoch {epoch}" if epoch else "before training"


def sheet(rows: list[list[Picture]], labels: list[str], names: list[str], heading: str) -> Figure:
    """Pictures of one size in a grid, with labels on the left, names on top and room for a legend below."""
    height, width = rows[0][0].shape[:2]
    mosaic = np.full((len(rows) * (height + _GAP) - _GAP, len(names) * (width + _GAP) - _GAP, 3), 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            mosaic[i * (height + _GAP) :, j * (width + _GAP) :][:height, :width] = picture
    full_width = _LEFT + max(mosaic.shape[1], _NARROWEST) + _RIGHT
    head = _HEADING + _LINE * (2 + max(name.count("\n") for name in names))
    full_height = head + mosaic.shape[0] + _FOOT
    figure = Figure(figsize=(full_width / DPI, full_height / DPI), dpi=DPI)
    box = (_LEFT / full_width, _FOOT / full_height, mosaic.shape[1] / full_width, mosaic.shape[0] / full_height)
    axes = figure.add_axes(box)
    axes.imshow(mosaic, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    top = 1 - 0.5 * _HEADING / full_height
    figure.text(_LEFT / full_width, top, heading, fontsize=TITLE, color=BLACK, fontweight="bold", va="center")
    for j, name in enumerate(names):
        x = (_LEFT + j * (width + _GAP) + width / 2) / full_width
        y = (_FOOT + mosaic.shape[0] + 8) / full_height
        figure.text(x, y, plain_text(name), fontsize=7, color=BLACK, ha="center", va="bottom", linespacing=1.25)
    for i, label in enumerate(labels):
        y = 1 - (head + i * (height + _GAP) + height / 2) / full_height
        figure.text((_LEFT - 16) / full_width, y, label, fontsize=SMALL, color=BLACK, ha="right", va="center")
    return figure


def colour_bar(figure: Figure, end: str, note: str) -> None:
    """Blue to red below a ``sheet``, from −end to +end, with a note beside it."""
    width, height = _width(figure), _height(figure)
    axes = figure.add_axes((_LEFT / width, 0.66 * _FOOT / height, 0.45 * _NARROWEST / width, 0.12 * _FOOT / height))
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=matplotlib.colormaps["RdBu_r"], aspect="auto", vmin=0, vmax=1)
    axes.set_xticks([0, 127.5, 255], [f"{MINUS}{end}", "0", f"+{end}"], fontsize=7, color=BLACK)
    axes.set_yticks([])
    axes.tick_params(length=2, width=0.6, pad=2)
    for side in axes.spines.values():
        side.set_visible(False)
    x = (_LEFT + 0.53 * _NARROWEST) / width
    figure.text(x, 0.5 * _FOOT / height, note, fontsize=7, color=GREY, va="center")


def _width(figure: Figure) -> float:
    return float(figure.get_figwidth() * DPI)


def _height(figure: Figure) -> float:
    return float(figure.get_figheight() * DPI)


def shown_size(shape: tuple[int, ...], columns: int, least: int, most: int) -> tuple[int, int]:
    """Height and width of a picture on the sheet; few columns are shown larger."""
    longer = max(shape)
    if longer > most:
        return (max(1, round(shape[0] * most / longer)), max(1, round(shape[1] * most / longer)))
    factor = max(1, -(-max(least, min(most, _NARROWEST // columns)) // longer))
    return shape[0] * factor, shape[1] * factor


def shown(picture: Picture, size: tuple[int, int]) -> Picture:
    """Whole squares for enlarged pixels, averages for reduced ones."""
    if picture.shape[:2] == size:
        return picture
    method = Image.Resampling.NEAREST if picture.shape[0] <= size[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), method))


def _grey(plane: NDArray[np.float64], low: float, high: float, flat: bool) -> Picture:
    share = np.full_like(plane, 0.5) if flat else np.clip((plane - low) / (high - low), 0, 1)
    return np.repeat((share * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def _fitting(name: str, width: int) -> str:
    """A name in one or two lines of 7 points above ``width`` pixels; of a longer one the middle is left out."""
    room = max(6, int(width / DPI / 0.06))
    name = short_name(name, 2 * room)
    return name if len(name) <= room else f"{name[:room]}\n{name[room:]}"


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", MINUS)
