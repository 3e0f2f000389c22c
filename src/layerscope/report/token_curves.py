"""How tokens change from layer to layer: means over images with their intervals, one panel a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import Formatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from layerscope.report.attribution import NOTICE
from layerscope.report.figure_rows import bar_lengths
from layerscope.report.figure_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MEDIUM,
    ORANGE,
    PURPLE,
    SKY,
    SMALL,
    TITLE,
    VERMILION,
    WIDTH,
    percent,
    plain_axes,
    plain_text,
    quiet_grid,
    short_name,
)
from layerscope.report.sentences import short
from layerscope.report.token_layers import numbered_layers
from layerscope.report.token_sentences import cls_heading, norm_in_words
from layerscope.report.token_statistics import CHANGE, TokenAnalysis, ViewStatistics
from layerscope.report.token_views import view_words

FloatArray = NDArray[np.float64]

_COLUMNS = 3
_ROW = 2.15
"""Panels side by side; inches of a row of panels."""

_FIXED = {"image": BLUE, "reconstruction": VERMILION, "other": PURPLE, "other_model": GREEN}
_CONTROLS = (ORANGE, SKY, BLACK)
_MARKERS = {"image": "o", "reconstruction": "s", "other": "p", "other_model": "D"}
_CONTROL_MARKERS = ("^", "v", "P", "X")
_DASHED = (0, (4, 2))
_MOST_MARKERS = 13
"""Layers up to which every mean is marked; lines of more would be a string of beads."""

_WIDE = 8.0
"""Ratio of the largest to the smallest norm from which their axis is logarithmic."""


@dataclass(frozen=True)
class _Panel:
    """figures: drawn in one panel, the second dashed. views: whose curves. paired: differences to the first view."""

    heading: str
    figures: tuple[str, ...]
    views: tuple[ViewStatistics, ...]
    paired: bool = False


def layer_curves_figure(analysis: TokenAnalysis) -> Figure:
    """Mean over images with its interval in every layer: similarities, effective rank, norms, border drop, change.

    Panels without a value are left out. The bands of the difference of neighbour similarity, which is paired, hold for
    all layers at once, every other band for each layer alone. Layers stand in the order of computation; where a view
    has other layers than the first, by relative depth. Views with one layer are dots with bars.
    """
    panels = _panels(analysis)
    rows = math.ceil(max(len(panels), 1) / _COLUMNS)
    columns = min(_COLUMNS, max(len(panels), 1))
    handles = _handles(analysis, panels)
    free = rows * columns - len(panels)
    # In the place of one panel the legend would press the others together.
    in_corner = free > 1
    side_by_side = 2 if columns == _COLUMNS else 1
    below = 0.0 if in_corner else 0.2 * math.ceil((len(handles) + 1) / side_by_side)
    figure = Figure(figsize=(max(WIDTH * columns / _COLUMNS, 4.8), rows * _ROW + 0.35 + below), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        _draw(analysis, axes, panel)
        if place + columns < len(panels):
            axes.set_xlabel("")
    _heading(figure, analysis)
    style: dict[str, Any] = {"handles": handles, "fontsize": SMALL, "frameon": False, "handlelength": 2.8}
    if panels and in_corner:
        corner = figure.add_subplot(grid[-1, columns - free :])
        corner.set_axis_off()
        corner.legend(loc="upper left", borderaxespad=0, **style)
    elif panels:
        figure.legend(loc="outside lower left", ncols=side_by_side, **style)
    return figure


def _panels(analysis: TokenAnalysis) -> list[_Panel]:
    if not analysis.views or not analysis.n_images:
        return []
    first, views = analysis.views[0], tuple(analysis.views)
    metric = "cosine" if analysis.similarity_metric == "cosine" else "dot product"
    # Norms and the border have two curves a view; with the controls' no reader could tell them apart.
    few = (first, *analysis.compared)
    tokens = list(dict.fromkeys(cls_heading(view) for view in views if view.curve("cls_similarity") is not None))
    # Two names leave no room for the metric, which the first panel says.
    cls = f"similarity to {' or '.join(tokens)}" + (f" ({metric})" if len(tokens) == 1 else "")
    wanted = [
        _Panel(f"neighbour similarity ({metric})", ("neighbour_similarity",), views),
        _Panel("neighbour similarity − image's", ("neighbour_similarity",), views[1:], paired=True),
        _Panel(cls, ("cls_similarity",), views),
        _Panel("effective rank", ("effective_rank",), views),
        _Panel("token norm", ("norm_median", "norm_max"), few),
        _Panel("drop at the mask's border", ("border_drop", "shifted_border_drop"), few),
        _Panel("token change (1 − cosine)", (CHANGE,), views[1:]),
    ]
    panels = []
    for one in wanted:
        with_values = tuple(
            view
            for view in one.views
            if any(_curve(view, figure, one.paired) is not None for figure in one.figures)
            and not (one.paired and (view.view == "other_model" or not view.same_layers))
        )
        if with_values:
            panels.append(_Panel(one.heading, one.figures, with_values, one.paired))
    return panels


def _curve(view: ViewStatistics, figure: str, paired: bool) -> FloatArray | None:
    return view.difference_curve(figure) if paired else view.curve(figure)


def _draw(analysis: TokenAnalysis, axes: Axes, panel: _Panel) -> None:
    plain_axes(axes)
    quiet_grid(axes, "y")
    axes.set_title(panel.heading, loc="left", fontsize=MEDIUM, color=BLACK)
    axes.yaxis.set_major_formatter(_EvenTicks())
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
    by_depth = _by_depth(analysis)
    for view in reversed(panel.views):  # the first view on top
        for second, name in enumerate(panel.figures):
            curve = _curve(view, name, panel.paired)
            if curve is not None:
                _line(analysis, axes, view, curve, _places(analysis, view), dashed=bool(second))
    if panel.paired or "border_drop" in panel.figures:
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    if panel.figures == (CHANGE,):
        axes.set_ylim(bottom=0)
    if "norm_max" in panel.figures:
        _norm_axis(axes, panel)
    _layer_axis(analysis, axes, by_depth)


def _line(
    analysis: TokenAnalysis, axes: Axes, view: ViewStatistics, curve: FloatArray, x: FloatArray, dashed: bool
) -> None:
    colour, marker = _look(analysis, view)
    mean, lo, hi = curve
    top = 4 if view is analysis.views[0] else 3
    style: dict[str, Any] = {
        "color": colour,
        "marker": marker,
        "markersize": 3.2,
        "markerfacecolor": "white" if dashed else colour,
        "markeredgewidth": 0.9,
        "linewidth": 1.0 if view.is_control else 1.4,
        "linestyle": _DASHED if dashed else "-",
        "zorder": top,
    }
    if len(x) == 1:
        axes.errorbar(x, mean, bar_lengths(mean, lo, hi), **{**style, "markersize": 4.5, "linestyle": "none"})
        return
    if len(x) > _MOST_MARKERS:
        style["markevery"] = math.ceil(len(x) / 8)
    axes.plot(x, mean, **style)
    if np.isfinite(lo).any():
        axes.fill_between(x, lo, hi, color=colour, alpha=0.18, linewidth=0, zorder=top - 1)


def _look(analysis: TokenAnalysis, view: ViewStatistics) -> tuple[str, str]:
    """Colour and marker of a view, the same in every panel."""
    if not view.is_control:
        return _FIXED[view.view], _MARKERS[view.view]
    place = next(row for row, one in enumerate(analysis.controls) if one is view)
    return _CONTROLS[place % len(_CONTROLS)], _CONTROL_MARKERS[place % len(_CONTROL_MARKERS)]


def _by_depth(analysis: TokenAnalysis) -> bool:
    return any(not view.same_layers for view in analysis.views)


def _places(analysis: TokenAnalysis, view: ViewStatistics) -> FloatArray:
    """(L,), where a view's layers stand: their number, or 0 to 1 from the first to the last."""
    layers = len(view.layer)
    if _by_depth(analysis):
        return np.linspace(0, 1, layers) if layers > 1 else np.ones(1)
    if layers > 1:
        return np.arange(layers, dtype=np.float64)
    place = next(row for row, one in enumerate(analysis.views) if one is view)
    return np.array([place - (len(analysis.views) - 1) / 2])


def _layer_axis(analysis: TokenAnalysis, axes: Axes, by_depth: bool) -> None:
    layers = analysis.views[0].layer
    if by_depth:
        axes.set_xlabel("relative depth")
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_xlim(-0.04, 1.04)
        return
    if len(layers) == 1:
        axes.set_xlabel(plain_text(short_name(layers[0], 30)))
        axes.set_xticks([])
        half = (len(analysis.views) - 1) / 2 + 0.7
        axes.set_xlim(-half, half)
        return
    stem, ticks = numbered_layers(layers)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlabel(plain_text(short_name(stem, 30)))
    axes.set_xlim(-0.04 * (len(layers) - 1), 1.04 * (len(layers) - 1))


def _norm_axis(axes: Axes, panel: _Panel) -> None:
    curves = [curve for view in panel.views for name in panel.figures if (curve := view.curve(name)) is not None]
    means = np.concatenate([curve[0][np.isfinite(curve[0])] for curve in curves])
    if means.min() <= 0:
        axes.set_ylim(bottom=0)
    elif means.max() / means.min() >= _WIDE:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


class _EvenTicks(Formatter):
    """Numbers of one axis with equally many decimals."""

    def format_ticks(self, values: Any) -> list[str]:
        digits = max((len(f"{value:.6f}".rstrip("0").partition(".")[2]) for value in values), default=0)
        return ["0" if abs(value) < 1e-9 else short(value, digits) for value in values]

    def __call__(self, x: float, pos: int | None = None) -> str:
        return self.format_ticks([x])[0]


def _handles(analysis: TokenAnalysis, panels: Sequence[_Panel]) -> list[Any]:
    order = [view for view in analysis.views if any(view is one for panel in panels for one in panel.views)]
    single = all(len(view.layer) == 1 for view in order)
    handles: list[Any] = []
    for view in order:
        colour, marker = _look(analysis, view)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=3.8, linewidth=1.4, label=_named(view)))
    drawn = {name for panel in panels for name in panel.figures}
    open_markers = ["largest norm (filled: median)"] if "norm_max" in drawn else []
    if any(view.curve("shifted_border_drop") is not None for view in order):
        open_markers.append("shifted borders")
    if open_markers:
        style: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "markersize": 3.8, "linewidth": 1.2}
        label = ("open: " if single else "open, dashed: ") + ", ".join(open_markers)
        handles.append(Line2D([], [], color=GREY, linestyle="none" if single else _DASHED, label=label, **style))
    if analysis.n_units > 1 and order:
        whose = "the mean" if single else "each layer's mean"
        text = f"{percent(analysis.settings.level)} interval of {whose}"
        if any(panel.paired for panel in panels) and not single:
            text += ";\nof a difference to the image's: of all layers at once"
        handles.append(
            Line2D([], [], color=GREY, linewidth=1.4, marker="|", markersize=0, label=text)
            if single
            else Patch(color=GREY, alpha=0.3, linewidth=0, label=text)
        )
    return handles


def _named(view: ViewStatistics) -> str:
    if view.view == "other_model":
        return plain_text(f"{view_words(view.view)} ({short_name(view.model, 24)})")
    return plain_text(short_name(view_words(view.view)))


def _heading(figure: Figure, analysis: TokenAnalysis) -> None:
    n = analysis.n_images
    patients = "" if analysis.group is None else f" of {analysis.n_units} patient{'s' * (analysis.n_units != 1)}"
    text = f"Tokens {norm_in_words(analysis)}, " + (f"{n} images{patients}" if n > 1 else "one image (no intervals)")
    text = text if n else "Tokens: no image was measured"
    figure.suptitle(plain_text(text), x=0.01, ha="left", fontsize=TITLE, color=BLACK, fontweight="bold")
    # Beside the heading: at the foot it would lie on the legend.
    figure.text(0.99, 0.99, NOTICE, ha="right", va="top", fontsize=6.5, color=GREY)
