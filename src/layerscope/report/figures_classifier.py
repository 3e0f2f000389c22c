"""The figures of a classifier evaluation (E0), from its table rows alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from layerscope.report.classifier import ClassifierAnalysis
from layerscope.report.figure_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT,
    MEDIUM,
    ORANGE,
    PURPLE,
    SKY,
    SMALL,
    VERMILION,
    WIDTH,
    label_names,
    new_figure,
    plain_axes,
    quiet_grid,
)
from layerscope.report.rows import MACRO, MICRO
from layerscope.report.sentences import short

Row = Mapping[str, Any]


def classifier_figures(analysis: ClassifierAnalysis) -> dict[str, Figure]:
    """File name to figure."""
    return {
        "per_label.png": per_label_figure(analysis.per_label, analysis.display_names),
        "reliability.png": reliability_figure(analysis.reliability, analysis.display_names),
    }


def per_label_figure(rows: Sequence[Row], display: dict[str, str] | None = None) -> Figure:
    """AUROC, AP and F1 of every label with intervals, best AUROC on top. rows: per_label.csv of E0."""
    cells = {(row["label"], row["metric"]): row for row in rows}
    labels = [label for label, metric in cells if metric == "auroc" and label not in (MACRO, MICRO)]
    labels.sort(key=lambda label: -_or_minus_one(cells[label, "auroc"]["value"]))
    names = [*label_names(labels, display), "macro average"]
    figure, panels = new_figure(WIDTH, 1.3 + 0.27 * len(names), 3)
    series = (
        ("auroc", "AUROC", BLUE),
        ("ap", "average precision", VERMILION),
        ("f1_fixed", "F1, fixed threshold", GREEN),
    )
    for panel, (metric, name, colour) in zip(panels, series):
        quiet_grid(panel, "x")
        for place, label in enumerate([*labels, MACRO]):
            row = cells[label, metric]
            if not math.isfinite(row["value"]):
                panel.text(
                    0.05,
                    place,
                    row["flag"] or "undefined",
                    transform=panel.get_yaxis_transform(),
                    fontsize=6.5,
                    color=GREY,
                    va="center",
                    style="italic",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                )
                continue
            marker = "D" if label == MACRO else "o"
            panel.plot([row["ci_lo"], row["ci_hi"]], [place, place], color=colour, linewidth=1.4)
            panel.plot(row["value"], place, marker, color=BLACK if label == MACRO else colour, markersize=5)
            if metric == "ap" and label != MACRO and row["n"]:
                panel.plot(row["n_pos"] / row["n"], place, "|", color=GREY, markersize=9, markeredgewidth=1.4)
        panel.axhline(len(labels) - 0.5, color=LIGHT, linewidth=0.8)
        if metric == "auroc":
            panel.axvline(0.5, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        panel.set_xlim(0.0, 1.02)
        panel.set_xticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
        panel.set_ylim(len(names) - 0.5, -0.6)
        panel.set_yticks(range(len(names)), names if panel is panels[0] else [])
        panel.set_xlabel(name, fontsize=MEDIUM)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == 0 else short(value, 1)))
    handles = [
        Line2D([], [], color=GREY, marker="o", markersize=5, linewidth=1.4, label="value and confidence interval"),
        Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), label="chance (AUROC)"),
        Line2D([], [], color=GREY, marker="|", markersize=9, linestyle="none", label="prevalence (chance for AP)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    return figure


def reliability_figure(rows: Sequence[Row], display: dict[str, str] | None = None) -> Figure:
    """Share of positives against predicted probability, all labels together, above how often each was predicted.

    rows: reliability.csv. Thin lines: single labels, where a bin has at least 5 samples; named and coloured while there
    are few enough to tell apart.
    """
    labels = list(dict.fromkeys(row["label"] for row in rows if row["label"] != MICRO))
    are_named = len(labels) <= len(_LABEL_LOOKS)
    figure = Figure(figsize=(4.6, 5.4), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[3.2, 1], hspace=0.03)
    curve, histogram = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    for axes in (curve, histogram):
        plain_axes(axes)
        axes.set_xlim(-0.01, 1.01)
    curve.plot([0, 1], [0, 1], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    thin: list[Line2D] = []
    for place, label in enumerate(labels):
        own = [row for row in rows if row["label"] == label]
        colour, marker = _LABEL_LOOKS[place] if are_named else (GREY, ".")
        # A gap where a bin is thin: a line across it would look like calibration that nobody has seen.
        thin += curve.plot(
            [row["mean_probability"] for row in own],
            [row["share_positive"] if row["n"] >= 5 else float("nan") for row in own],
            color=colour,
            alpha=0.8 if are_named else 0.45,
            linewidth=0.9,
            marker=marker,
            markersize=3.5,
        )
    pooled = [row for row in rows if row["label"] == MICRO and row["n"] > 0]
    x = [row["mean_probability"] for row in pooled]
    for row in pooled:
        curve.plot([row["mean_probability"]] * 2, [row["ci_lo"], row["ci_hi"]], color=BLACK, linewidth=1.3)
    curve.plot(x, [row["share_positive"] for row in pooled], color=BLACK, marker="o", markersize=4.5, linewidth=1.6)
    curve.set_ylim(-0.02, 1.02)
    curve.set_ylabel("share of positives", fontsize=MEDIUM)
    curve.tick_params(labelbottom=False)
    everyone = [row for row in rows if row["label"] == MICRO]
    counts = [max(row["n"], 0) for row in everyone]
    histogram.bar(
        [row["bin_lo"] for row in everyone],
        counts,
        width=[0.94 * (row["bin_hi"] - row["bin_lo"]) for row in everyone],
        align="edge",
        color=LIGHT,
    )
    histogram.set_yscale("log")
    histogram.set_ylim(0.7, 2 * max([*counts, 5]))
    histogram.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0,) if max(counts) > 300 else (1.0, 3.0)))
    histogram.yaxis.set_minor_locator(NullLocator())
    histogram.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " ")))
    histogram.set_ylabel("known image–\nlabel pairs (log)", fontsize=MEDIUM)
    histogram.set_xlabel("predicted probability", fontsize=MEDIUM)
    for axis in (curve.xaxis, curve.yaxis, histogram.xaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: "0" if abs(value) < 1e-9 else short(value, 1)))
    handles = [
        Line2D([], [], color=BLACK, marker="o", markersize=4.5, label="all labels, 95 % interval"),
        Line2D([], [], color=GREY, linestyle=(0, (4, 3)), linewidth=1.0, label="perfectly calibrated"),
    ]
    if are_named:
        for line, name in zip(thin, label_names(labels, display)):
            line.set_label(name)
        handles += thin
    elif thin:
        thin[0].set_label("thin lines: one label each")
        handles.append(thin[0])
    figure.legend(handles=handles, fontsize=SMALL, frameon=False, loc="outside lower center", ncols=2)
    return figure


_LABEL_LOOKS = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (ORANGE, "v"), (SKY, "D"), (PURPLE, "P"))


def _or_minus_one(value: float) -> float:
    return value if math.isfinite(value) else -1.0
