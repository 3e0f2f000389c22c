"""Panels of token figures: a map where its patches are, the picture under its grid of patches, numbers, a page of them.

Boxes are placed in inches rather than by a layout engine, which takes longer than all drawing and moves panels with
the length of a tick label.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from layerscope.artifacts.token_maps import NEIGHBOURS, ImageTokens
from layerscope.report.attribution import NOTICE
from layerscope.report.figure_style import BLACK, GREY, SMALL, TITLE, VERMILION, plain_text, plain_tick, short_name
from layerscope.report.heat_maps import Mask
from layerscope.report.pictures import Picture
from layerscope.report.sentences import short, significant
from layerscope.report.token_places import MAPS, Map
from layerscope.report.token_views import view_words

HEAD, FOOT, LINE, EDGE = 0.6, 0.27, 0.155, 0.1
NAME, BAR, GAP = 0.36, 0.6, 0.16
"""Inches: above and below all panels, for a line more, and beside panels; of one panel the two lines above its map, the
colour bar with its numbers at the right, and the space below."""

DIFFERENCES = "RdBu_r"
MASK = "#00FFFF"
_MUTED = "#5A5A5A"
_GROUND = "#DEDEDE"
_FINEST = 2.5
"""Points: patches smaller than this are not outlined, since the lines would cover the picture."""


@dataclass(frozen=True)
class Scale:
    """The values of a colour map's ends, and whether there are values beyond them."""

    low: float
    high: float
    below: bool = False
    above: bool = False

    @property
    def extend(self) -> str:
        return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(
            (self.below, self.above), "both"
        )

    @property
    def norm(self) -> Normalize:
        return Normalize(self.low, self.high)


def scale_of(maps: Iterable[Map], least: float = -math.inf, most: float = math.inf) -> Scale:
    """One scale for maps: their 1st to 99th percentile, so that single tokens do not take all colours.

    Of values that are all the same, a little to both sides. least, most: what the values can be.
    """
    values = _finite(maps)
    if not len(values):
        return Scale(0.0, 1.0)
    low, high = (float(end) for end in np.percentile(values, [1, 99]))
    if is_constant(values):
        room = 0.05 * max(abs(low), 1.0)
        return Scale(max(least, low - room), min(most, high + room))
    if not high - low > 1e-6 * max(1.0, abs(low), abs(high)):  # but for single values all the same
        low, high = float(values.min()), float(values.max())
    slack = 0.02 * (high - low)
    return Scale(low, high, bool(values.min() < low - slack), bool(values.max() > high + slack))


def symmetric_scale(maps: Iterable[Map]) -> Scale:
    """−x to x of signed values, x the 99th percentile of their sizes; ±1 where all are 0."""
    sizes = np.abs(_finite(maps))
    most = float(sizes.max(initial=0.0))
    if most <= 1e-12:
        return Scale(-1.0, 1.0)
    top = float(np.percentile(sizes, 99))
    top = top if top > 1e-6 * most else most
    beyond = most > 1.02 * top
    return Scale(-top, top, beyond, beyond)


def is_constant(values: Map) -> bool:
    """Whether the values differ by no more than rounding."""
    return bool(float(np.ptp(values)) <= 1e-6 * max(1.0, float(np.abs(values).max()))) if values.size else True


def mean_and_spread(values: Map, sign: bool = False) -> str:
    """``mean .83 ± .07 (s.d.)`` of a map, with as many digits as the spread tells."""
    finite = _finite([values])
    if not len(finite):
        return "n/a"
    mean, spread = float(finite.mean()), float(finite.std())
    if is_constant(finite):
        return f"constant {short(mean, 3, sign)}"
    digits = int(np.clip(1 - math.floor(math.log10(spread)), 0, 5))
    digits = max(digits, 2) if abs(mean) < 10 else digits
    return f"mean {short(mean, digits, sign)} ± {short(spread, digits)}"


def _finite(maps: Iterable[Map]) -> NDArray[np.float64]:
    values = [np.asarray(one, dtype=np.float64).ravel() for one in maps]
    joined = np.concatenate(values) if values else np.zeros(0)
    return np.asarray(joined[np.isfinite(joined)])


@dataclass(frozen=True)
class Page:
    """A figure measured in inches from its upper left corner.

    scale: by which everything, text included, is smaller than that where the user's figure is too small.
    """

    figure: Figure
    width: float
    height: float
    scale: float = 1.0

    @classmethod
    def of(cls, width: float, height: float, scale: float = 1.0) -> Page:
        return cls(Figure(figsize=(width * scale, height * scale)), width, height, scale)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def text(self, left: float, top: float, text: str, size: float = SMALL, **look: Any) -> None:
        look = {"va": "center", "color": BLACK} | look
        place = left / self.width, 1 - top / self.height
        self.figure.text(*place, plain_text(text), fontsize=size * self.scale, **look)

    def heading(self, text: str, below: Sequence[str], notes: Sequence[str] = ()) -> None:
        """A title, lines below it, and at the foot notes, a line each, and the notice."""
        self.text(EDGE, 0.2, text, TITLE, fontweight="bold")
        for place, line in enumerate(below):
            self.text(EDGE, 0.42 + place * LINE, line, color=_MUTED)
        for place, line in enumerate(reversed(notes)):
            self.text(EDGE, self.height - 0.12 - (place + 1) * LINE, line, color=_MUTED)
        self.text(self.width - EDGE, self.height - 0.12, NOTICE, color=GREY, ha="right")

    def name(self, axes: Axes, title: str, detail: str, colour: str = _MUTED) -> None:
        """Two lines above a panel."""
        size = SMALL * self.scale
        axes.set_title(plain_text(title), loc="left", fontsize=size, fontweight="bold", color=BLACK, pad=1.9 * size)
        above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "xytext": (0, 0.5 * size)}
        axes.annotate(plain_text(detail), (0, 1), fontsize=size, color=colour, ha="left", va="bottom", **above)


def patch_axes(axes: Axes, grid: tuple[int, int]) -> None:
    """Axes in patches from the upper left corner, without ticks."""
    axes.set_xlim(0, grid[1])
    axes.set_ylim(grid[0], 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(_GROUND)
    for side in axes.spines.values():
        side.set_color(GREY)
        side.set_linewidth(0.5)


def draw_map(page: Page, axes: Axes, values: Map, name: str, grid: tuple[int, int], scale: Scale, cmap: str) -> None:
    """A map (h, w) of a kind where its values are, on the picture's grid of patches."""
    axes.imshow(
        np.asarray(values, dtype=np.float64),
        cmap=matplotlib.colormaps[cmap],
        norm=scale.norm,
        extent=MAPS[name].edges(values.shape),
        interpolation="nearest",
        aspect="auto",
    )
    patch_axes(axes, grid)


def draw_bar(page: Page, axes: Axes, scale: Scale, cmap: str) -> None:
    """A colour bar at the right of a panel."""
    box = axes.get_position()
    bar = page.figure.add_axes((box.x1 + 0.06 / page.width, box.y0, 0.09 / page.width, box.height))
    colours = ScalarMappable(scale.norm, matplotlib.colormaps[cmap])
    drawn = page.figure.colorbar(colours, cax=bar, extend=scale.extend, extendfrac=0.04)
    drawn.outline.set_linewidth(0.5)
    most = int(np.clip(page.height * box.height / 0.22, 1, 5))  # no more than there is room for
    ticks = np.asarray(
        MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], min_n_ticks=min(3, most)).tick_values(scale.low, scale.high)
    )
    slack = 1e-9 * (scale.high - scale.low)
    ticks = ticks[(ticks >= scale.low - slack) & (ticks <= scale.high + slack)]
    bar.set_yticks(ticks, _tick_texts(ticks), fontsize=SMALL * page.scale, color=BLACK)
    bar.tick_params(length=2 * page.scale, width=0.6, pad=2 * page.scale)
    bar.minorticks_off()


def _tick_texts(ticks: NDArray[np.floating]) -> list[str]:
    """Numbers that tell neighbouring ticks apart, however close they are."""
    if len(ticks) < 2:
        return [plain_tick(float(tick)) for tick in ticks]
    step = float(ticks[1] - ticks[0])
    digits = next((d for d in range(6) if abs(round(step, d) - step) < 1e-6 * step), None)
    if digits is None:
        return [significant(float(tick)) for tick in ticks]
    return ["0" if abs(tick) < 1e-6 * step else short(float(tick), digits) for tick in ticks]


def draw_absence(axes: Axes, page: Page, why: str) -> None:
    """A panel that says why it is empty."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(_GROUND)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.text(
        0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", fontsize=SMALL * page.scale, color=_MUTED
    )


def draw_picture(
    page: Page, axes: Axes, picture: Picture, grid: tuple[int, int], lines: bool = True, marked: Mask | None = None
) -> None:
    """The picture under its grid of patches; marked: bool (R, C), patches that get a frame."""
    rows, columns = grid
    patch_axes(axes, grid)
    axes.imshow(picture, extent=(0, columns, rows, 0), aspect="auto")
    patch_axes(axes, grid)
    points = _patch_points(page, axes, grid)
    if lines and points >= _FINEST:
        # Light on dark, so that the lines show on any ground; fainter where there are many.
        strength = min(1.0, points / 8)
        for colour, width in (((0, 0, 0, 0.25 * strength), 0.8), ((1, 1, 1, 0.6 * strength), 0.35)):
            axes.vlines(np.arange(1, columns), 0, rows, colors=[colour], linewidth=width)
            axes.hlines(np.arange(1, rows), 0, columns, colors=[colour], linewidth=width)
    for row, column in np.argwhere(marked) if marked is not None else ():
        corners = ([column, column + 1, column + 1, column, column], [row, row, row + 1, row + 1, row])
        axes.plot(*corners, color=VERMILION, linewidth=1.1, solid_joinstyle="miter")


_REGIONS = {"seed_similarity": "seed_patches", "box_similarity": "box_patches"}


def _patch_points(page: Page, axes: Axes, grid: tuple[int, int]) -> float:
    """The shorter side of a patch in points."""
    box = axes.get_position()
    inches = page.scale * page.width * box.width / grid[1], page.scale * page.height * box.height / grid[0]
    return 72 * min(inches)


def mark_high_norms(page: Page, axes: Axes, marked: Mask, grid: tuple[int, int]) -> None:
    """A dot on each patch of bool (R, C)."""
    rows, columns = np.nonzero(marked)
    size = float(np.clip(0.5 * _patch_points(page, axes, grid), 1.5, 5.0))
    axes.scatter(columns + 0.5, rows + 0.5, s=size**2, color="white", edgecolors=BLACK, linewidths=0.6, zorder=3)


def draw_outline(axes: Axes, mask: Mask | None, grid: tuple[int, int]) -> None:
    """The edge of a lesion mask, bool (H, W) of the picture, as a thin cyan line in a dark one."""
    if mask is None or not mask.any():
        return
    padded = np.pad(mask, 1).astype(np.float64)
    x = (np.arange(padded.shape[1]) - 0.5) * grid[1] / mask.shape[1]
    y = (np.arange(padded.shape[0]) - 0.5) * grid[0] / mask.shape[0]
    for colour, width in (("black", 2.0), (MASK, 1.0)):
        axes.contour(x, y, padded, levels=[0.5], colors=colour, linewidths=width)


def draw_region(axes: Axes, tokens: ImageTokens, name: str) -> None:
    """The edge of the patches that a map compares with, the seed or those of a box, as a white line in a dark one."""
    patches = tokens.maps.get(_REGIONS.get(name, ""))
    if patches is None:
        return
    inside = np.pad(patches[-1], 1)
    # Sides of patches across which a row or column of patches is left: the right one of a column, the lower of a row.
    rows, columns = np.nonzero(inside[1:-1, 1:] != inside[1:-1, :-1])
    sides = [((column, row), (column, row + 1)) for row, column in zip(rows, columns)]
    rows, columns = np.nonzero(inside[1:, 1:-1] != inside[:-1, 1:-1])
    sides += [((column, row), (column + 1, row)) for row, column in zip(rows, columns)]
    for colour, width in (("black", 2.6), ("white", 1.2)):
        axes.add_collection(LineCollection(sides, colors=colour, linewidths=width, capstyle="projecting", zorder=3))


def draw_numbers(page: Page, axes: Axes, rows: Sequence[tuple[str, str]]) -> None:
    """Names at the left and values at the right, line by line; what finds no room is left out and counted."""
    axes.set_axis_off()
    box = axes.get_position()
    line = LINE / (page.height * box.height)
    room = max(1, int(1 / line))
    if len(rows) > room:
        rows = [*rows[: room - 1], (f"and {len(rows) - room + 1} more", "")]
    for place, (left, right) in enumerate(rows):
        y, size = 1 - (place + 0.5) * line, SMALL * page.scale
        axes.text(0, y, plain_text(left), transform=axes.transAxes, va="center", fontsize=size, color=_MUTED)
        axes.text(
            1, y, plain_text(right), transform=axes.transAxes, va="center", ha="right", fontsize=size, color=BLACK
        )


def described(tokens: ImageTokens, layer: str | None = None) -> tuple[str, str]:
    """The model; then layer (the last or the given, "" for none), metric, stage of the norm, view if not the image."""
    parts = [short_name(tokens.layers[-1] if layer is None else layer, 30), tokens.similarity_metric.replace("_", " ")]
    parts = [*parts, f"{tokens.norm} the final norm"] + ([view_words(tokens.view)] if tokens.view != "image" else [])
    return short_name(tokens.model, 38), " · ".join(part for part in parts if part)


def fitted(width: float, height: float, ratio: float) -> tuple[float, float]:
    """The largest box of height / width ``ratio`` in a room, in inches."""
    return (width, width * ratio) if width * ratio <= height else (height / ratio, height)


def bounded(tokens: ImageTokens, name: str) -> bool:
    """Whether a map's values lie between −1 and 1 by what they are."""
    return name != "norms" and tokens.similarity_metric == "cosine"


def map_scale(several: Sequence[ImageTokens], name: str, layer: int = -1) -> Scale:
    """The scale of one layer's map in one or several figures' images: that of its kind.

    All maps of neighbours share one; of norms it is that of the tokens that are not marked as high, so that a few of
    these do not take all colours.
    """
    names = NEIGHBOURS if name in NEIGHBOURS else (name,)
    maps = [(one, np.asarray(one.maps[each][layer])) for one in several for each in names if each in one.maps]
    if name != "norms":
        ends = (-1.0, 1.0) if all(bounded(one, name) for one in several) else (-math.inf, math.inf)
        return scale_of([values for _, values in maps], *ends)
    high = [high_norm(one, layer) for one, _ in maps]
    usual = [values if marked is None else values[~marked] for (_, values), marked in zip(maps, high)]
    if not sum(values.size for values in usual):
        return scale_of([values for _, values in maps])
    scale = scale_of(usual)
    return replace(scale, above=scale.above or any(marked is not None for marked in high))


def high_norm(tokens: ImageTokens, layer: int = -1) -> Mask | None:
    """bool (R, C), the tokens with high norms; None where there is none."""
    if "high_norm" not in tokens.maps or not tokens.maps["high_norm"][layer].any():
        return None
    return np.asarray(tokens.maps["high_norm"][layer], dtype=bool)
