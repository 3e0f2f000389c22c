"""Figures of layer differences: one pair, all pairs with effects, and whether the difference is at the lesion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from layerscope.artifacts.layer_scores import DIFFERENCES, LOCALISATION, POINTS, FloatArray, LayerScores
from layerscope.report.attribution import NOTICE
from layerscope.report.figure_rows import bar_lengths
from layerscope.report.figure_style import (
    BLACK,
    BLUE,
    GREY,
    SMALL,
    TITLE,
    VERMILION,
    percent,
    plain_axes,
    plain_text,
    plain_tick,
    quiet_grid,
    short_name,
)
from layerscope.report.layer_effects import LayerAnalysis, Method, Statistic, watched
from layerscope.report.layer_names import layer_labels
from layerscope.report.noise_floor import floor_relative_l2, floor_words
from layerscope.report.sample_means import SampleMeans
from layerscope.report.sentences import significant

TOP = 5

_ROW = 0.19
_TALLEST = 40.0
"""Inches: the height of a layer's row, and of a figure at most; with more layers rows get narrower."""

_NUMBER, _RANKED_NUMBER, _MARKER = 0.13, 0.21, 0.012
"""Shares of a panel's width: a number beside a bar, alone and with its rank; from a marker's middle to its edge."""

_GAP = 0.55
"""Rows between a point and the layers next to it."""

_METRICS: dict[Method, tuple[str, ...]] = {
    "l2": ("relative_l2",),
    "cosine": ("cosine_dissimilarity",),
    "both": ("relative_l2", "cosine_dissimilarity"),
}
_AXIS = {"relative_l2": "relative L2", "cosine_dissimilarity": "cosine dissimilarity"}


def pair_figure(scores: LayerScores, pair: int, method: Method = "both") -> Figure:
    """One pair (a row of the scores): bars over the layers in order of computation, the top five of each panel marked.

    Points (input, latent, reconstruction) are grey, stand apart and are not ranked. Beside each bar of relative L2 a
    small open marker shows the mean of the noise floor, if there is one.
    """
    has_floor, floor = len(scores.floor) > 0, floor_relative_l2(scores)
    places = _places(scores.layer)
    figure, panels = _figure(scores, places, len(_METRICS[method]), width=2.7)
    size = _rows(places)[2]
    for panel, metric in zip(panels, _METRICS[method]):
        values = scores.values[pair, :, DIFFERENCES.index(metric)]
        rows = [row for row in watched(scores.layer) if values[row] > 0]
        top = sorted(rows, key=lambda row: -values[row])[:TOP]
        colours = [_colour(scores.layer[row], row in top) for row in range(len(values))]
        panel.barh(places, np.nan_to_num(values), height=0.72, color=colours, linewidth=0)
        beside = np.nan_to_num(floor if metric == "relative_l2" else np.zeros(len(values)))
        room = 1.36 * float(np.nanmax([*values, *beside], initial=0))
        for row, value in enumerate(values):
            text = f"{significant(value)}{f'  ({top.index(row) + 1})' if row in top else ''}"
            weight = "bold" if row in top else "normal"
            end = float(np.nan_to_num(value))
            edge, width = _MARKER * room, (_RANKED_NUMBER if row in top else _NUMBER) * room
            if not beside[row] or not end - edge < beside[row] < end + width:
                _beside(panel, end, places[row], text, min(6.5, size), weight)
            elif end > width + edge:  # the marker stands where the number would be, which goes into the bar
                at = min(end, beside[row] - edge)
                _beside(panel, at, places[row], text, min(6.5, size), weight, inside=True)
            else:
                _beside(panel, beside[row] + edge, places[row], text, min(6.5, size), weight)
        if metric == "relative_l2" and has_floor:
            _floor_markers(panel, places, floor)
        panel.set_xlim(0, room or 1)
        panel.set_xlabel(_AXIS[metric])
    _heading(figure, f"Layer differences of {short_name(scores.id[pair], 50)}")
    handles = [_patch(VERMILION, f"top {TOP} of the panel"), _patch(BLUE, "other layers"), *_point_patch(scores)]
    _legend(
        figure, [*handles, *([_floor_handle(scores, BLACK)] if "relative_l2" in _METRICS[method] and has_floor else [])]
    )
    return figure


def aggregated_figure(analysis: LayerAnalysis, method: Method = "both") -> Figure:
    """All pairs: mean with interval beside the floor's, the effect, and linear CKA with interval if it was measured.

    The effect is that of relative L2, or of the cosine dissimilarity where only that was asked for. The top five of a
    panel are marked.
    """
    scores, table = analysis.scores, analysis.differences
    metrics = _METRICS[method]
    with_effect = bool(np.isfinite(table.effect[:, DIFFERENCES.index(metrics[0])]).any())
    cka = analysis.cka
    with_cka = bool(np.isfinite(cka.value).any())
    places = _places(scores.layer)
    figure, panels = _figure(scores, places, len(metrics) + with_effect + with_cka, width=1.6)
    rest = iter(panels)
    for metric in metrics:
        panel, column = next(rest), DIFFERENCES.index(metric)
        if analysis.has_floor:
            _dots(panel, places, table.floor, column, lambda _: GREY, marker="d", filled=False)
        _dots(panel, places, table.pairs, column, _colours(analysis, metric, "mean"))
        panel.set_xlim(left=min(0.0, panel.get_xlim()[0]))
        panel.set_xlabel(_AXIS[metric])
    if with_effect:
        panel, column = next(rest), DIFFERENCES.index(metrics[0])
        colour = _colours(analysis, metrics[0], "effect")
        panel.axvline(0, color=GREY, linewidth=0.8)
        for row, value in enumerate(table.effect[:, column]):
            if math.isfinite(value):
                ends = (table.effect_lo[row, column], table.effect_hi[row, column])
                _dot(panel, places[row], value, ends, colour(row))
        panel.set_xlabel(f"effect of {_AXIS[metrics[0]]}\nover the floor (s.d.)")
    if with_cka:
        panel = next(rest)
        colour = _colours(analysis, "linear_cka", "mean")
        for row, value in enumerate(cka.value):
            if math.isfinite(value):
                _dot(panel, places[row], value, (cka.lo[row], cka.hi[row]), colour(row))
        panel.axvline(1, color=GREY, linewidth=0.8)
        panel.set_xlabel("linear CKA\n(1: alike)" if cka.ranks else "linear CKA (1: alike)\nfew pairs: no rank")
    patients = "" if scores.group is None else f" of {analysis.n_units} patients"
    pairs = "1 pair" if analysis.n_pairs == 1 else f"{analysis.n_pairs} pairs"
    _heading(figure, f"Layer differences over {pairs}{patients}")
    handles = [_marker(VERMILION, f"top {TOP} of the panel"), _marker(BLUE, "other layers")]
    handles += [_marker(BLACK, "not ranked: points")] if _has_points(scores) else []
    if analysis.has_floor:
        handles.append(_floor_handle(scores))
    with_intervals = analysis.n_units > 1 or bool(np.isfinite(cka.lo).any())
    handles += [_interval_handle(analysis)] if with_intervals else []
    _legend(figure, handles)
    return figure


def localisation_figure(analysis: LayerAnalysis) -> Figure | None:
    """Pixel AUROC and lift per layer for the mask and for shifted masks, with intervals; None without a usable mask.

    Layers where a figure surely exceeds its control, pair by pair, are marked.
    """
    table, scores = analysis.localisation, analysis.scores
    if not table.measured:
        return None
    places = _places(scores.layer)
    figure, panels = _figure(scores, places, 2, width=2.5)
    for panel, name, chance, axis in (
        (panels[0], "auroc", 0.5, "pixel AUROC"),
        (panels[1], "lift", 1.0, "lift (share in the mask / its area)"),
    ):
        column = LOCALISATION.index(name)
        panel.axvline(chance, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        _dots(panel, places, table.shifted, column, lambda _: GREY, marker="d", filled=False)
        _dots(panel, places, table.mask, column, _sureness(table.difference.lo[:, column]))
        panel.set_xlabel(axis)
    panels[0].set_xlim(right=min(1.02, panels[0].get_xlim()[1]))
    # A small lesion's lift at the input is a hundred times that of a deep layer.
    lifts = np.concatenate([one.mean[:, LOCALISATION.index("lift")] for one in (table.mask, table.shifted)])
    if np.nanmin(lifts) > 0:
        panels[1].set_xscale("log")
        panels[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    n = int(table.mask.n.max())
    _heading(figure, f"Is the difference at the lesion? {n} {'pair' if n == 1 else 'pairs'} with a mask")
    handles = [
        _marker(VERMILION, "lesion mask, surely above its control"),
        _marker(BLUE, "lesion mask, not surely"),
        _marker(GREY, "control: shifted masks", "d", filled=False),
        Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), label="chance"),
    ]
    handles += [_interval_handle(analysis)] if analysis.n_units > 1 else []
    _legend(figure, handles)
    return figure


def _places(layers: Sequence[str]) -> FloatArray:
    """Height of each layer's row from the top; points stand a little apart from their neighbours."""
    places, at = [], 0.0
    for row, name in enumerate(layers):
        if row:
            at += 1 + _GAP * ((name in POINTS) != (layers[row - 1] in POINTS))
        places.append(at)
    return np.array(places)


def _figure(scores: LayerScores, places: FloatArray, n_panels: int, width: float) -> tuple[Figure, list[Axes]]:
    """Panels side by side with the layers' names at the left of the first, in order of computation from the top."""
    labels = [plain_text(label) for label in layer_labels(scores.layer)]
    rows, row, size = _rows(places)
    names = 0.062 * max(map(len, labels), default=0) * size / SMALL + 0.25
    figure = Figure(figsize=(names + max(n_panels, 1.8) * width, rows * row + 1.45), layout="constrained")
    panels = [figure.add_subplot(1, n_panels, 1)]
    panels += [figure.add_subplot(1, n_panels, place + 1, sharey=panels[0]) for place in range(1, n_panels)]
    for panel in panels:
        plain_axes(panel)
        quiet_grid(panel, "x")
        panel.tick_params(axis="y", length=0, labelleft=panel is panels[0])
        panel.xaxis.set_major_formatter(FuncFormatter(plain_tick))
        panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        for place, name in zip(places, scores.layer):
            if name in POINTS:
                panel.axhspan(place - 0.5, place + 0.5, color="#F4F4F4", linewidth=0, zorder=0)
    panels[0].set_yticks(places, labels, fontsize=size)
    for tick, name in zip(panels[0].get_yticklabels(), scores.layer):
        tick.set_fontstyle("italic" if name in POINTS else "normal")
        tick.set_color(GREY if name in POINTS else BLACK)
    panels[0].set_ylim(rows - 0.7, -0.7)
    return figure, panels


def _rows(places: FloatArray) -> tuple[float, float, float]:
    """Number of rows, height of one in inches, and the size in points of text that fits."""
    rows = (float(places[-1]) if len(places) else 0.0) + 1.4
    height = min(_ROW, _TALLEST / rows)
    return rows, height, min(SMALL, 0.7 * 72 * height)


def _dots(
    panel: Axes,
    places: FloatArray,
    means: SampleMeans,
    column: int,
    colour: Callable[[int], str],
    marker: str = "o",
    filled: bool = True,
) -> None:
    for row, value in enumerate(means.mean[:, column]):
        if math.isfinite(value):
            _dot(panel, places[row], value, (means.lo[row, column], means.hi[row, column]), colour(row), marker, filled)


def _dot(
    panel: Axes,
    place: float,
    value: float,
    ends: tuple[float, float],
    colour: str,
    marker: str = "o",
    filled: bool = True,
) -> None:
    panel.errorbar(
        [value],
        [place],
        xerr=bar_lengths(np.array([value]), [ends[0]], [ends[1]]),
        color=colour,
        marker=marker,
        markersize=4,
        markerfacecolor=colour if filled else "white",
        markeredgewidth=1.0,
        elinewidth=1.2,
        linestyle="none",
    )


def _floor_markers(panel: Axes, places: FloatArray, floor: FloatArray) -> None:
    panel.plot(
        floor,
        places,
        color=BLACK,
        marker="d",
        markersize=3.5,
        markerfacecolor="white",
        markeredgewidth=0.8,
        linestyle="none",
        clip_on=False,  # a floor of exactly 0 stands on the axis
        zorder=3,
    )


def _beside(panel: Axes, value: float, place: float, text: str, size: float, weight: str, inside: bool = False) -> None:
    """Text behind the end of a bar, or before it, inside the bar."""
    panel.annotate(
        text,
        (value, place),
        xytext=(-3 if inside else 3, 0),
        textcoords="offset points",
        ha="right" if inside else "left",
        va="center",
        fontsize=size,
        fontweight=weight,
        color="white" if inside else BLACK,
    )


def _colours(analysis: LayerAnalysis, metric: str, statistic: Statistic) -> Callable[[int], str]:
    top = set(analysis.order(metric, statistic)[:TOP])
    names = analysis.scores.layer
    return lambda row: BLACK if names[row] in POINTS else VERMILION if row in top else BLUE


def _sureness(lower: FloatArray) -> Callable[[int], str]:
    return lambda row: VERMILION if lower[row] > 0 else BLUE


def _colour(name: str, top: bool) -> str:
    return GREY if name in POINTS else VERMILION if top else BLUE


def _has_points(scores: LayerScores) -> bool:
    return any(name in POINTS for name in scores.layer)


def _heading(figure: Figure, text: str) -> None:
    figure.suptitle(plain_text(text), x=0.01, ha="left", fontsize=TITLE, color=BLACK, fontweight="bold")
    figure.supxlabel(NOTICE, x=0.99, ha="right", fontsize=6.5, color=GREY)


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    columns = max(1, int(figure.get_figwidth() / 2.3))
    figure.legend(handles=list(handles), loc="outside lower left", ncols=columns, fontsize=SMALL, frameon=False)


def _patch(colour: str, label: str) -> Patch:
    return Patch(color=colour, linewidth=0, label=label)


def _point_patch(scores: LayerScores) -> list[Patch]:
    return [_patch(GREY, "points, not ranked")] if _has_points(scores) else []


def _marker(colour: str, label: str, marker: str = "o", filled: bool = True) -> Line2D:
    face = colour if filled else "white"
    return Line2D(
        [], [], color=colour, marker=marker, markersize=4, markerfacecolor=face, linestyle="none", label=label
    )


def _floor_handle(scores: LayerScores, colour: str = GREY) -> Line2D:
    return _marker(colour, f"noise floor: {floor_words(scores.floor_kind)}", "d", filled=False)


def _interval_handle(analysis: LayerAnalysis) -> Line2D:
    text = f"bars: {percent(analysis.settings.level)} interval"
    return Line2D([], [], color=GREY, linewidth=1.2, label=text)
