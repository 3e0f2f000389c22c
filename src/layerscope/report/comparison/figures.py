"""The figures of a comparison: which there are, and why others are not."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layerscope.report.comparison.cells import differences, main_metric, measured, seed_rows
from layerscope.report.comparison.forests import draw_differences, draw_values
from layerscope.report.comparison.label_map import columns, draw_label_map, explanation, heading, label_cells
from layerscope.report.comparison.looks import mark_forced
from layerscope.report.comparison.noise_panels import draw_curves, with_curves
from layerscope.report.comparison.pareto import CONTROL, RING, ParetoNames, draw_pareto, sizes
from layerscope.report.comparison.result import Comparison
from layerscope.report.figure_style import (
    BLACK,
    DPI,
    GREY,
    LIGHT,
    SMALL,
    WIDTH,
    label_names,
    new_figure,
    percent,
    plain_axes,
    title,
)
from layerscope.report.sentences import short

OVERVIEW = "comparison.png"
PARETO = "figures/pareto.png"
CURVES = "figures/t_curves.png"
LABELS = "figures/labels.png"
DIFFERENCES = "figures/differences.png"

_QUIET: dict[str, Any] = {"fontsize": SMALL, "frameon": False}

_COSTS = "What reconstruction costs"

_FEW = 5
"""Up to so many candidates stand above the other panels of the overview."""


def comparison_figures(comparison: Comparison) -> tuple[dict[str, Figure], list[dict[str, str]]]:
    """File name to figure, the overview first; and records ``what`` and ``reason`` of those that there are not."""
    drawn: dict[str, Callable[[Comparison], Figure]] = {
        OVERVIEW: overview_figure,
        PARETO: pareto_figure,
        CURVES: curves_figure,
        LABELS: labels_figure,
        DIFFERENCES: differences_figure,
    }
    absent = absences(comparison)
    figures = {name: draw(comparison) for name, draw in drawn.items() if name not in absent}
    return figures, [{"what": name, "reason": reason} for name, reason in absent.items() if reason]


def absences(comparison: Comparison) -> dict[str, str]:
    """Figures that would show nothing, and why; without a reason where nobody would expect the figure."""
    found: dict[str, str] = {}
    if not measured(comparison, main_metric(comparison)):
        found[OVERVIEW] = "no candidate has a macro AUROC"
    if comparison.kind == "classifier":
        found |= {PARETO: "", CURVES: ""}
    else:
        if len(sizes(comparison)) < 2:
            found[PARETO] = "the candidates' latents have one size, or their sizes are not known"
        if not with_curves(comparison):
            found[CURVES] = "no candidate was measured with latent noise"
    if not np.isfinite(label_cells(comparison)).any():
        found[LABELS] = "no label is defined"
    if not differences(comparison):
        found[DIFFERENCES] = "there is no difference between two candidates"
    return found


def pareto_figure(comparison: Comparison) -> Figure:
    """Loss against latent size; there are at least two sizes."""
    figure = Figure(figsize=(WIDTH, 4.4), dpi=DPI, layout="constrained")
    mark_forced(figure, comparison)
    names = _pareto_panel(figure, comparison)
    _laid_out(figure)
    names.place()
    return figure


def curves_figure(comparison: Comparison) -> Figure:
    """Macro AUROC against effective log-SNR, with the legend on the right."""
    figure = Figure(figsize=(WIDTH + 1.4, 4.2), layout="constrained")
    mark_forced(figure, comparison)
    entries = _curve_panels(figure, comparison)
    figure.legend(handles=entries, loc="outside right center", handlelength=3, **_QUIET)
    return figure


def labels_figure(comparison: Comparison) -> Figure:
    """Labels by candidates."""
    names = label_names([*comparison.labels, "macro average"], dict(comparison.display))
    width = 0.075 * max(map(len, names)) + 0.56 * len(columns(comparison)) + 1.7
    figure, (axes,) = new_figure(max(width, 4.6), 2.2 + 0.28 * len(names))
    mark_forced(figure, comparison)
    title(axes, heading(comparison))
    draw_label_map(axes, comparison)
    # About 15 characters of 8 points fit into an inch.
    words = textwrap.fill(explanation(comparison), int(15 * figure.get_figwidth()))
    figure.supxlabel(words, x=0.01, ha="left", fontsize=SMALL, color=BLACK)
    return figure


def differences_figure(comparison: Comparison) -> Figure:
    """Candidates against the baseline, or where none is named against the best."""
    found = differences(comparison)
    figure, (axes,) = new_figure(WIDTH + 1.4, 1.5 + 0.3 * len(found))
    mark_forced(figure, comparison)
    title(axes, "What differs from the best" if comparison.baseline is None else "What differs from the baseline")
    draw_differences(axes, comparison, found)
    figure.legend(handles=_difference_entries(comparison), loc="outside lower center", ncols=2, **_QUIET)
    return figure


def overview_figure(comparison: Comparison) -> Figure:
    """Everything on one sheet, for a talk; panels without data are left out."""
    return _classifier_sheet(comparison) if comparison.kind == "classifier" else _bottleneck_sheet(comparison)


def _bottleneck_sheet(comparison: Comparison) -> Figure:
    """Few candidates above the other panels, many to the left of them."""
    panels = [name for name in (PARETO, CURVES) if name not in absences(comparison)]
    rows = 1.35 + 0.32 * len(comparison.candidates)
    if not panels:
        figure = Figure(figsize=(WIDTH, rows), layout="constrained")
        _forest_panel(figure, comparison)
    else:
        above = len(comparison.candidates) <= _FEW
        size = (6.2 * len(panels), rows + 3.7) if above else (12.4, max(rows, 3.4 * len(panels)))
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        shape: dict[str, Any] = (
            {"nrows": 2, "height_ratios": [rows, 3.7]} if above else {"ncols": 2, "width_ratios": [5.8, 6.6]}
        )
        first, rest = figure.subfigures(**shape)
        _forest_panel(first, comparison)
        cells = rest.subfigures(*((1, len(panels)) if above else (len(panels), 1)), squeeze=False).flat
        places = dict(zip(panels, cells))
    mark_forced(figure, comparison)
    names = _pareto_panel(places[PARETO], comparison) if PARETO in panels else None
    if CURVES in panels:
        others = _curve_panels(places[CURVES], comparison)[len(comparison.candidates) :]
        same = f"colours and markers as in “{_COSTS}”"
        look: dict[str, Any] = {**_QUIET, "title": same, "title_fontsize": SMALL}
        places[CURVES].legend(handles=others, loc="outside lower center", ncols=3, **look)
    if names is not None:
        _laid_out(figure)
        names.place()
    return figure


def _forest_panel(figure: FigureBase, comparison: Comparison) -> None:
    axes = figure.add_subplot()
    plain_axes(axes)
    title(axes, _COSTS)
    draw_values(axes, comparison, "delta_auroc", "Δ macro AUROC to real images, without noise", signed=True)
    entries = [*_value_entries(comparison), _margin_entry(comparison)]
    figure.legend(handles=entries, loc="outside lower center", ncols=3, **_QUIET)


def _pareto_panel(figure: FigureBase, comparison: Comparison) -> ParetoNames:
    axes = figure.add_subplot()
    plain_axes(axes)
    title(axes, "What a larger latent keeps")
    entries = [
        Line2D([], [], color=BLACK, linewidth=1.0, label="Pareto front"),
        Line2D([], [], label="on the front", **{**RING, "markersize": 8}),
        _interval_entry(comparison, upright=True),
    ]
    if comparison.controls:
        entries.append(Line2D([], [], label="known degradations", **CONTROL))
    figure.legend(handles=entries, loc="outside lower center", ncols=4, **_QUIET)
    return draw_pareto(axes, comparison)


def _curve_panels(figure: FigureBase, comparison: Comparison) -> list[Artist]:
    """Returns the legend's entries: of the candidates, then of what else there is."""
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 5], wspace=0.02)
    clean = figure.add_subplot(grid[0, 0])
    noisy = figure.add_subplot(grid[0, 1], sharey=clean)
    for axes in (clean, noisy):
        plain_axes(axes)
    title(clean, "What latent noise does")
    return [*draw_curves(clean, noisy, comparison), _interval_entry(comparison, upright=True)]


def _classifier_sheet(comparison: Comparison) -> Figure:
    found = differences(comparison) if comparison.baseline is not None else []
    with_ap = bool(measured(comparison, "ap"))
    ratios = [3.0, *([3.0] if with_ap else []), *([3.0] if found else [])]
    figure, panels = new_figure(3.6 * len(ratios) + 1.2, 1.8 + 0.32 * len(comparison.candidates), len(ratios))
    mark_forced(figure, comparison)
    metrics = [("auroc", "macro AUROC"), *([("ap", "mean average precision (mAP)")] if with_ap else [])]
    for axes, (metric, words) in zip(panels, metrics):
        title(axes, words.partition(" (")[0])
        draw_values(axes, comparison, metric, words, signed=False)
    if found:
        title(panels[-1], "against the baseline")
        draw_differences(panels[-1], comparison, found, every=True)
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    entries = [*_value_entries(comparison), *(_difference_entries(comparison) if found else [])]
    figure.legend(handles=entries, loc="outside lower center", ncols=4, **_QUIET)
    return figure


def _interval_entry(comparison: Comparison, upright: bool = False) -> Line2D:
    look: dict[str, Any] = {"marker": "|", "markersize": 9, "linestyle": "none"} if upright else {"linewidth": 1.4}
    return Line2D([], [], color=GREY, label=f"{percent(comparison.level)} interval", **look)


def _value_entries(comparison: Comparison) -> list[Artist]:
    """Of candidates' figures: their intervals, and where there are any the ticks of single seeds."""
    metric = main_metric(comparison)
    seeds = any(seed_rows(comparison, name, metric) for name in comparison.candidates)
    look: dict[str, Any] = {"marker": "|", "markersize": 5, "linestyle": "none", "label": "one training seed"}
    return [_interval_entry(comparison), *([Line2D([], [], color=GREY, **look)] if seeds else [])]


def _margin_entry(comparison: Comparison) -> Patch:
    return Patch(color=LIGHT, alpha=0.45, linewidth=0, label=f"margin (±{short(comparison.margin)})")


def _difference_entries(comparison: Comparison) -> list[Artist]:
    sure = f"{percent(comparison.level)} simultaneous interval"
    return [
        Line2D([], [], color=BLACK, linewidth=1.4, label=sure),
        _margin_entry(comparison),
    ]


def _laid_out(figure: Figure) -> None:
    """Fixes the layout, so that what is measured in it stays where it is."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
