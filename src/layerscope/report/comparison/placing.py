"""Names beside points, without overlap: measured in the finished layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import Normal, Stroke
from matplotlib.transforms import Bbox

from layerscope.report.figure_style import BLACK, GREY, SMALL

_DISTANCES = (8.0, 12.0, 18.0, 26.0, 36.0, 48.0, 62.0)
"""Points between a marker and its name, tried from near to far."""
_ANGLES = (0, 180, 35, -35, 145, -145, 65, -65, 115, -115, 90, -90)
"""Degrees: beside it first, then askew, then above and below."""


_HALO = Stroke(linewidth=2.0, foreground="white", alpha=0.85)


class Placed(NamedTuple):
    """A name for a point of an axes, in its colour."""

    text: str
    x: float
    y: float
    colour: str


def place_names(axes: Axes, names: Sequence[Placed], paths: Sequence[np.ndarray]) -> None:
    """Writes names where they cover neither each other nor a point nor an interval, as near as that allows.

    A name that stands away from its point has a thin line to it. paths: each (K, 2), corners of a line that names keep
    clear of if they can. The figure's layout must be final: places are measured in pixels.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    point = figure.dpi / 72
    inside = axes.get_window_extent()
    at = axes.transData.transform([(one.x, one.y) for one in names]) if names else np.zeros((0, 2))
    taken = [Bbox.from_extents(x - 6 * point, y - 6 * point, x + 6 * point, y + 6 * point) for x, y in at]
    taken += [_padded(bar, point) for bar in _intervals(axes)]
    names_taken: list[Bbox] = []
    lines: list[tuple[np.ndarray, np.ndarray]] = []
    low, high = np.subtract(inside.min, 9), np.add(inside.max, 9)
    clear = [part for path in paths for part in pairwise(np.clip(axes.transData.transform(path), low, high))]
    # Crowded ones first: they have the fewest free places.
    gaps = [np.sort(np.hypot(*(at - one).T))[:3].sum() for one in at]
    for place in np.argsort(gaps, kind="stable"):
        one, (x, y) = names[place], at[place]
        text = axes.text(one.x, one.y, one.text, fontsize=SMALL, color=BLACK, zorder=6, path_effects=[_HALO, Normal()])
        text.set_in_layout(False)
        box = text.get_window_extent()
        width, height = box.width, box.height
        best: tuple[float, Bbox, np.ndarray] | None = None
        for distance, angle in product(_DISTANCES, _ANGLES):
            radians = np.deg2rad(angle)
            end = np.array([x, y]) + distance * point * np.array([np.cos(radians), np.sin(radians)])
            left = end[0] - width * (0.0 if np.cos(radians) > 0.01 else 1.0 if np.cos(radians) < -0.01 else 0.5)
            bottom = end[1] - height * (0.5 - 0.5 * np.sin(radians))
            tried = Bbox.from_bounds(left, bottom, width, height)
            cost = sum(_overlap(tried, other) for other in [*taken, *names_taken]) + 4 * _outside(tried, inside)
            cost += 150 * sum(_crossing(np.array([x, y]), end, *line) for line in lines)
            cost += 300 * sum(_cut(tried, *line) for line in lines) + 150 * sum(
                _cut(_padded(tried, point), *line) for line in clear
            )
            cost += sum(100 * _cut(other, np.array([x, y]), end) for other in names_taken)
            cost += distance / point
            if best is None or cost < best[0]:
                best = (cost, tried, end)
        assert best is not None
        _, found, end = best
        names_taken.append(_padded(found, 1.5 * point))
        left, bottom = axes.transData.inverted().transform((found.x0, found.y0))
        text.set_position((left, bottom))
        text.set_verticalalignment("bottom")
        if np.hypot(*(end - (x, y))) > 9 * point:
            lines.append((np.array([x, y]), end))
            ends = axes.transData.inverted().transform(np.array([(x, y), end]))
            axes.plot(*ends.T, color=GREY, linewidth=0.6, zorder=3, scalex=False, scaley=False)


def spread(values: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Rising places for rising values, at least ``least`` apart, near them and if possible within low and high.

    >>> spread([0.0, 0.1, 5.0], 1.0, -2.0, 10.0)
    [-0.45, 0.55, 5.0]
    """
    groups: list[list[float]] = []  # centre, count
    for value in values:
        groups.append([value, 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < least * (groups[-1][1] + groups[-2][1]) / 2 - 1e-12:
            (later, n), (earlier, m) = groups.pop(), groups.pop()
            groups.append([(later * n + earlier * m) / (n + m), n + m])
    found = [centre + least * (k - (n - 1) / 2) for centre, n in groups for k in range(int(n))]
    for k, place in enumerate(found):
        found[k] = max(place, low, found[k - 1] + least if k else low)
    over = max(0.0, found[-1] - high) if found else 0.0
    for k in range(len(found) - 1, -1, -1):
        limit = high if k == len(found) - 1 else found[k + 1] - least
        found[k] = min(found[k], limit) if over else found[k]
    return [round(place, 12) for place in found]


def _intervals(axes: Axes) -> Iterator[Bbox]:
    """Where error bars are, in pixels."""
    for bars in (part for part in axes.collections if isinstance(part, LineCollection)):
        for segment in bars.get_segments():
            (x0, y0), (x1, y1) = axes.transData.transform(segment)
            yield Bbox.from_extents(x0, y0, x1, y1)


def _padded(box: Bbox, by: float) -> Bbox:
    return Bbox.from_extents(box.x0 - by, box.y0 - by, box.x1 + by, box.y1 + by)


def _overlap(one: Bbox, other: Bbox) -> float:
    width, height = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
    return width * height + 200 if width > 0 and height > 0 else 0.0


def _outside(box: Bbox, inside: Bbox) -> float:
    lost = max(inside.x0 - box.x0, 0) + max(box.x1 - inside.x1, 0) + max(inside.y0 - box.y0, 0)
    return 10 * (lost + max(box.y1 - inside.y1, 0))


def _crossing(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> bool:
    """Whether two stretches cross."""

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def _cut(box: Bbox, start: np.ndarray, end: np.ndarray) -> bool:
    """Whether a stretch runs through a box."""
    along = start + np.linspace(0, 1, 60)[:, None] * (end - start)
    return bool(((along > (box.x0, box.y0)) & (along < (box.x1, box.y1))).all(axis=1).any())
