"""Quality against size: candidates, and those to which no other is both as small and as good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from layerscope.report.comparison.cells import measured, number, own
from layerscope.report.comparison.looks import Look, looks
from layerscope.report.comparison.placing import Placed, place_names, spread
from layerscope.report.comparison.result import Comparison
from layerscope.report.figure_rows import bar_lengths
from layerscope.report.figure_style import BLACK, LIGHT, SMALL, plain_text, quiet_grid, short_name, signed_ticks

_TICKS = 8
"""So many sizes fit below the axis."""

_DODGE = 0.09
"""Octaves between points of equal size."""

RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 12.5,
    "markerfacecolor": "none",
    "markeredgecolor": BLACK,
    "markeredgewidth": 0.9,
    "linestyle": "none",
}
"""Around candidates on the front, whose line passes through their size and not through where they stand."""

CONTROL: dict[str, Any] = {"color": "#6E6E6E", "linewidth": 0.9, "linestyle": (0, (4, 2))}
"""Lines of known degradations."""


@dataclass(frozen=True)
class ParetoNames:
    """Names of points and of controls, which find their places in the final layout.

    lines: each (K, 2), corners of what names keep clear of.
    """

    axes: Axes
    points: Sequence[Placed]
    controls: Sequence[Annotation]
    lines: Sequence[np.ndarray]

    def place(self) -> None:
        _keep_apart(self.axes, self.controls)
        place_names(self.axes, self.points, self.lines)


def pareto_front(cost: Sequence[float], value: Sequence[float]) -> np.ndarray:
    """Which points no other point beats: none costs at most as much, is at least as good, and better in one of both.

    cost: (N,), lower is better. value: (N,), higher is better. Points that are equal in both are on the front together;
    those with a NaN are never on it. Returns bool (N,).

    >>> pareto_front([1, 2, 2, 3], [0.5, 0.7, 0.6, 0.7]).tolist()
    [True, True, False, False]
    """
    front = np.zeros(len(cost), dtype=bool)
    costs, values = np.asarray(cost, dtype=float), np.asarray(value, dtype=float)
    known = np.flatnonzero(np.isfinite(costs) & np.isfinite(values))
    best = -math.inf
    for size in np.unique(costs[known]):
        here = known[costs[known] == size]
        top = values[here].max()
        if top > best:
            front[here[values[here] == top]] = True
            best = top
    return front


def on_front(comparison: Comparison) -> list[str]:
    """Candidates on the Pareto front of latent size and macro AUROC, by their values alone."""
    names = [name for name in measured(comparison, "latent_elements") if name in measured(comparison, "delta_auroc")]
    front = pareto_front(*(_values(comparison, names, metric) for metric in ("latent_elements", "delta_auroc")))
    return [name for name, best in zip(names, front) if best]


def sizes(comparison: Comparison) -> list[float]:
    """The different latent sizes of candidates with a figure, smallest first."""
    names = measured(comparison, "delta_auroc")
    return sorted({size for size in _values(comparison, names, "latent_elements") if math.isfinite(size)})


def draw_pareto(axes: Axes, comparison: Comparison) -> ParetoNames:
    """ΔAUROC with intervals against latent elements; returns the names, to be placed when the layout is final."""
    names = [name for name in measured(comparison, "delta_auroc") if name in measured(comparison, "latent_elements")]
    rows = [own(comparison, name, "delta_auroc") for name in names]
    size = np.array(_values(comparison, names, "latent_elements"))
    value = np.array([number(row) for row in rows])
    lo, hi = (np.array([number(row, end) for row in rows]) for end in ("ci_lo", "ci_hi"))
    x = dodged(size)
    quiet_grid(axes, "y")
    axes.axhline(0, color=LIGHT, linewidth=1.2, zorder=1)
    front = _step(axes, size, value)
    best = pareto_front(list(size), list(value))
    axes.plot(x[best], value[best], zorder=5, **RING)
    styles = looks(comparison.candidates)
    for place, name in enumerate(names):
        _point(axes, styles[name], x[place], value[place], lo[place], hi[place])
    ticks = sizes(comparison)
    least = math.log2(ticks[-1] / ticks[0]) / _TICKS
    shown = ticks[:1]
    for one in ticks[1:]:
        if math.log2(one / shown[-1]) >= least:
            shown.append(one)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}".replace(",", "\u2009")))
    room = 0.12 * math.log2(ticks[-1] / ticks[0]) + 0.25
    axes.set_xlim(min(x.min(), ticks[0]) / 2**room, max(x.max(), ticks[-1]) * 2 ** (room * 1.6))
    signed_ticks(axes, "y")
    together = "; equal sizes side by side" * (len(ticks) < len(names))
    axes.set_xlabel(f"latent elements of one image (log scale{together})")
    axes.set_ylabel("Δ macro AUROC to real images")
    ends = np.concatenate([value, lo[np.isfinite(lo)], hi[np.isfinite(hi)], [0.0]])
    pad = 0.12 * max(float(np.ptp(ends)), 0.004)
    axes.set_ylim(ends.min() - pad, ends.max() + pad)
    controls = _controls(axes, comparison.controls)
    points = [
        Placed(plain_text(short_name(name, 20)), float(x[place]), float(value[place]), styles[name].colour)
        for place, name in enumerate(names)
    ]
    left, right = axes.get_xlim()
    level = [np.array([(left, y), (right, y)]) for y in (0.0, *(float(name.xy[1]) for name in controls))]
    return ParetoNames(axes, points, controls, [front, *level])


def dodged(size: np.ndarray) -> np.ndarray:
    """Sizes, those that are equal moved apart on a logarithmic axis, around their place."""
    moved = size.astype(float)
    for one in np.unique(size):
        here = np.flatnonzero(size == one)
        moved[here] = one * 2.0 ** (_DODGE * (np.arange(len(here)) - (len(here) - 1) / 2))
    return moved


def _values(comparison: Comparison, names: Sequence[str], metric: str) -> list[float]:
    return [number(own(comparison, name, metric)) for name in names]


def _point(axes: Axes, look: Look, x: float, y: float, lo: float, hi: float) -> None:
    bars = bar_lengths(np.array([y]), [lo], [hi])
    axes.errorbar([x], [y], bars, linestyle="none", elinewidth=1.2, zorder=4, **look.mark())


def _step(axes: Axes, size: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The best that a latent of at most that size reaches, as a line; returns its corners (K, 2)."""
    front = pareto_front(list(size), list(value))
    corners = sorted(set(zip(size[front], value[front])))
    path = [(corners[0][0], -10.0)]  # below every axis: a change of AUROC is at least -1
    for x, y in corners:
        path += [(x, path[-1][1]), (x, y)]
    path.append((64 * corners[-1][0], corners[-1][1]))
    axes.plot(*zip(*path), color=BLACK, linewidth=1.0, zorder=2)
    return np.array(path)


def _controls(axes: Axes, controls: Mapping[str, float]) -> list[Annotation]:
    """Known degradations within the axis as dashed lines, named on the right; those beyond it in words."""
    bottom, top = axes.get_ylim()
    inside = sorted((value, name) for name, value in controls.items() if bottom <= value <= top)
    beyond = [name for name, value in controls.items() if math.isfinite(value) and not bottom <= value <= top]
    names = []
    for value, name in inside:
        axes.axhline(value, zorder=1.5, **CONTROL)
        line: dict[str, Any] = {
            "arrowstyle": "-",
            "color": CONTROL["color"],
            "linewidth": 0.8,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        place: dict[str, Any] = {
            "xycoords": ("axes fraction", "data"),
            "xytext": (10, 0),
            "textcoords": "offset points",
        }
        text: dict[str, Any] = {"va": "center", "fontsize": SMALL - 0.5, "color": BLACK}
        names.append(axes.annotate(plain_text(short_name(name, 14)), (1.0, value), arrowprops=line, **place, **text))
    if beyond:
        words = f"beyond the axis: {', '.join(short_name(name, 14) for name in beyond)}"
        corner: dict[str, Any] = {
            "xycoords": "axes fraction",
            "xytext": (0, 3),
            "textcoords": "offset points",
            "ha": "right",
        }
        axes.annotate(plain_text(words), (1.0, 1.0), fontsize=SMALL - 0.5, color=BLACK, va="bottom", **corner)
    return names


def _keep_apart(axes: Axes, names: Sequence[Annotation]) -> None:
    """Moves names beside the axes apart; they come sorted by their places."""
    bottom, top = axes.get_ylim()
    figure = axes.get_figure(root=True)
    assert figure is not None
    per_point = (top - bottom) / axes.get_window_extent().height * figure.dpi / 72
    values = [float(name.xy[1]) for name in names]
    for name, value, place in zip(names, values, spread(values, 8.5 * per_point, bottom, top)):
        name.set_position((10, (place - value) / per_point))
