"""What latent noise does: the t-curve, the label × t heat map, where labels collapse. Made from table rows alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from layerscope.report.collapse import AT_OR_ABOVE, NO_ONSET_FLAG
from layerscope.report.figure_rows import (
    Names,
    Row,
    bar_lengths,
    cell_of,
    column_heading,
    column_text,
    control_names,
    noise_axis,
    noise_names,
    noise_rows,
    possible_range,
    row_of,
    sorted_labels,
    unclipped,
)
from layerscope.report.figure_style import (
    BLACK,
    BLUE,
    GREY,
    LIGHT,
    MEDIUM,
    ORANGE,
    SMALL,
    VERMILION,
    WIDTH,
    label_names,
    new_figure,
    percent,
    plain_axes,
    plain_text,
    quiet_grid,
    signed_ticks,
)
from layerscope.report.rows import MACRO
from layerscope.report.sentences import short

_SERIES = (("auroc", BLUE, "o"), ("ap", VERMILION, "s"))
_ONSET: dict[str, Any] = {"marker": "D", "markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 1.5}


def t_curve_figure(rows: Sequence[Row], margin: float, level: float) -> Figure | None:
    """Macro AUROC and AP: without noise, against log-SNR with noise growing to the right, and under the controls.

    rows: t_curve.csv. level: of its intervals, in (0, 1). The AUROC band is the simultaneous band of the difference,
    placed at the real value; the AP band is pointwise. Bands are cut at 0 and 1, which no value can pass. None where
    no label is defined.
    """
    macro = [row for row in rows if row["label"] == MACRO and row["metric"] in ("auroc", "ap")]
    real = {metric: cell_of(macro, "real", metric) for metric in ("auroc", "ap")}
    if not math.isfinite(real["auroc"]):
        return None
    steps = noise_names(macro)
    controls = control_names(macro)
    ratios = [1.1, *([5.0] if steps else []), *([0.34 * len(controls) + 0.3] if controls else [])]
    figure = Figure(figsize=(WIDTH if steps else 4.6, 4.2), layout="constrained")
    grid = figure.add_gridspec(1, len(ratios), width_ratios=ratios, wspace=0.03)
    panels = [figure.add_subplot(grid[0, 0])]
    panels += [figure.add_subplot(grid[0, i], sharey=panels[0]) for i in range(1, len(ratios))]
    for panel in panels:
        plain_axes(panel)
        quiet_grid(panel, "y")
        panel.axhline(0.5, color=GREY, linewidth=0.6, zorder=1)
        panel.axhline(real["auroc"] - margin, color=BLUE, linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)
        for metric, colour, _ in _SERIES:
            panel.axhline(real[metric], color=colour, linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=1)
    for panel in panels[1:]:
        panel.tick_params(labelleft=False, left=False)
        panel.spines["left"].set_visible(False)
    _categories(panels[0], macro, ["real", "recon"], "no noise")
    if steps:
        _noise_panel(panels[1], macro, real["auroc"])
    if controls:
        _categories(panels[-1], macro, controls, "controls")
    panels[0].set_ylabel("macro average over labels")
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value, 2)))
    panels[0].yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    bottom, top = panels[0].get_ylim()
    panels[0].set_ylim(max(bottom, 0.0), min(top, 1.0))
    handles: list[Any] = [
        Line2D([], [], color=BLUE, marker="o", markersize=4.5, linewidth=1.5, label="AUROC"),
        Line2D([], [], color=VERMILION, marker="s", markersize=4.5, linewidth=1.5, label="average precision"),
        Line2D([], [], color=GREY, linewidth=1.0, linestyle=(0, (1, 1.5)), label="real images"),
        Line2D([], [], color=BLUE, linewidth=0.9, linestyle=(0, (5, 3)), label=f"AUROC margin ({short(margin)})"),
        Line2D([], [], color=GREY, linewidth=0.6, label="chance (AUROC)"),
        Line2D(
            [], [], color=GREY, linewidth=1.1, marker="|", linestyle="none", label=f"bars: {percent(level)} interval"
        ),
    ]
    if len(steps) > 1:
        sure = percent(level)
        handles.append(Patch(color=BLUE, alpha=0.16, linewidth=0, label=f"{sure} simultaneous band (AUROC, all t)"))
        handles.append(Patch(color=VERMILION, alpha=0.16, linewidth=0, label=f"{sure} band of each t alone (AP)"))
    if steps:
        handles.append(Line2D([], [], color=GREY, marker=".", markersize=4, linestyle="none", label="single draws"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    return figure


def _categories(panel: Axes, rows: Sequence[Row], names: Sequence[str], heading: str) -> None:
    """Conditions side by side, AUROC and AP of each with their intervals."""
    for metric, colour, marker in _SERIES:
        found = [row_of(rows, name, metric) for name in names]
        y = np.array([row["value"] for row in found])
        offset = -0.09 if metric == "auroc" else 0.09
        x = np.arange(len(names)) + offset
        bars = bar_lengths(y, *possible_range([row["ci_lo"] for row in found], [row["ci_hi"] for row in found]))
        unclipped(
            panel.errorbar(x, y, bars, color=colour, marker=marker, markersize=4.5, linewidth=1.1, linestyle="none")
        )
    panel.set_xticks(range(len(names)), [plain_text(name) for name in names])
    for tick in panel.get_xticklabels():
        tick.set(rotation=90)
    panel.set_xlim(-0.6, len(names) - 0.4)
    panel.set_title(heading, fontsize=MEDIUM, color=BLACK, pad=6)


def _noise_panel(panel: Axes, rows: Sequence[Row], real_auroc: float) -> None:
    for metric, colour, marker in _SERIES:
        mean = noise_rows(rows, metric)
        x = [row["log_snr"] for row in mean]
        if metric == "auroc":
            ends = ([real_auroc + row["ci_sim_lo"] for row in mean], [real_auroc + row["ci_sim_hi"] for row in mean])
        else:
            ends = ([row["ci_lo"] for row in mean], [row["ci_hi"] for row in mean])
        lo, hi = possible_range(*ends)
        if len(mean) > 1:
            panel.fill_between(x, lo, hi, color=colour, alpha=0.16, linewidth=0, zorder=1)
        else:
            y = np.array([row["value"] for row in mean])
            unclipped(panel.errorbar(x, y, bar_lengths(y, lo, hi), color=colour, linewidth=1.1, linestyle="none"))
        values = [row["value"] for row in mean]
        panel.plot(x, values, color=colour, marker=marker, markersize=4.5, linewidth=1.5, clip_on=False)
        draws = [
            r for r in rows if r["metric"] == metric and isinstance(r["draw"], int) and math.isfinite(r["log_snr"])
        ]
        x, values = [r["log_snr"] for r in draws], [r["value"] for r in draws]
        panel.scatter(x, values, s=5, color=colour, alpha=0.5, linewidths=0, clip_on=False)
    noise_axis(panel, [(row["log_snr"], row["t"]) for row in noise_rows(rows, "auroc")])
    panel.set_xlabel("log-SNR of the latent (nats); more noise →")


def heat_map_figure(rows: Sequence[Row], display: Names = None) -> Figure | None:
    """ΔAUROC of every label at recon and at every noise step; labels that lose most at recon on top.

    rows: per_label.csv. Bold: adjusted p below .05. Hatched: undefined. None where there is no label.
    """
    auroc = [row for row in rows if row["metric"] == "auroc" and row["draw"] in (None, "mean")]
    columns = ["recon", *noise_names(auroc)]
    cells = {(row["label"], row["condition"]): row for row in auroc}
    labels = sorted_labels([row for row in auroc if row["condition"] == "recon"])
    if not labels:
        return None
    values = np.array([[cells[label, column]["delta"] for column in columns] for label in labels], dtype=float)
    names = label_names(labels, display)
    name_width = 0.075 * max(len(name) for name in names) + 0.3
    figure, (ax,) = new_figure(max(name_width + 0.5 * len(columns) + 1.0, 4.2), 1.35 + 0.28 * len(labels))
    limit = max(float(np.nanmax(np.abs(values), initial=0.0)) if np.isfinite(values).any() else 0.0, 0.05)
    image = ax.imshow(np.ma.masked_invalid(values), cmap="RdBu", norm=TwoSlopeNorm(0.0, -limit, limit), aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if not math.isfinite(value):
            ax.add_patch(
                Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="#F2F2F2", edgecolor=GREY, hatch="////", linewidth=0)
            )
            continue
        row = cells[labels[i], columns[j]]
        ax.text(
            j,
            i,
            "0" if value == 0 else short(value, 2),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if abs(value) > 0.62 * limit else BLACK,
            fontweight="bold" if row["p"] < 0.05 else "normal",
        )
    ax.axvline(0.5, color="white", linewidth=3)
    heads = ["recon"]
    for column in columns[1:]:
        heads.append(f"{cells[labels[0], column]['t']}\n{short(cells[labels[0], column]['log_snr'], 1)}")
    ax.set_xticks(range(len(columns)), heads, fontsize=SMALL)
    ax.set_yticks(range(len(labels)), names, fontsize=SMALL)
    ax.tick_params(length=0)
    if len(columns) > 1:
        ax.set_xlabel("step t, and its log-SNR (nats) below")
    for spine in ax.spines.values():
        spine.set_visible(False)
    legend_text = "bold: adjusted p < .05"
    if not np.isfinite(values).all():
        legend_text += "    hatched: undefined"
    ax.set_title(legend_text, fontsize=SMALL, color=BLACK, loc="right")
    if len(labels) < 4:
        # Too low for a readable scale; every cell shows its number.
        return figure
    bar = figure.colorbar(image, ax=ax, fraction=0.035, pad=0.015, aspect=max(8, 3 * len(labels)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL, length=2)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    signed_ticks(bar.ax, "y")
    bar.set_label("ΔAUROC to real", fontsize=MEDIUM)
    return figure


def collapse_figure(
    collapse: Sequence[Row], t_curve: Sequence[Row], level: float, display: Names = None
) -> Figure | None:
    """How much latent noise each label survives: bars from no noise to the collapse point, with intervals.

    What was seen without noise has a column of its own on the left, because it has no place on a log-SNR axis; what
    became of each label is written on the right, where no marker can be hit.

    collapse: collapse.csv; t_curve: t_curve.csv, for the axis. level: of the intervals, in (0, 1). None where there are
    no noise steps.
    """
    steps = [(row["log_snr"], row["t"]) for row in noise_rows([r for r in t_curve if r["label"] == MACRO], "auroc")]
    if not collapse or not steps:
        return None
    start, end = max(step[0] for step in steps), min(step[0] for step in steps)
    order = {"collapsed_at_recon": 0, "collapsed": 1, "not_reached": 2, "undefined": 3}
    labels = sorted(
        (row for row in collapse if row["label"] != MACRO),
        key=lambda row: (order[row["state"]], -row["collapse_log_snr"] if row["state"] == "collapsed" else 0),
    )
    bars = [*labels, *(row for row in collapse if row["label"] == MACRO)]
    names = [*label_names([row["label"] for row in labels], display), "macro average"]
    figure = Figure(figsize=(WIDTH, 1.7 + 0.29 * len(bars)), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 13], wspace=0.02)
    clean = figure.add_subplot(grid[0, 0])
    ax = figure.add_subplot(grid[0, 1], sharey=clean)
    for panel in (clean, ax):
        plain_axes(panel)
    noise_axis(ax, steps)
    if start == end:
        start, end = start + 0.5, end - 0.5
    ax.set_xlim(start + 0.04 * (start - end), end - 0.04 * (start - end))
    for place, row in enumerate(bars):
        colour = BLACK if row["label"] == MACRO else BLUE
        state = row["state"]
        if state == "collapsed_at_recon":
            clean.plot(0, place, "X", color=VERMILION, markersize=7)
        elif state != "undefined":
            clean.barh(place, 1, left=-0.5, height=0.56, color=colour, alpha=0.3 if state == "not_reached" else 0.85)
        if state == "collapsed":
            ax.barh(place, row["collapse_log_snr"] - start, left=start, height=0.56, color=colour, alpha=0.85)
            lo, hi = (float(np.clip(row[end_], end, start)) for end_ in ("ci_lo", "ci_hi"))
            whisker: dict[str, Any] = {
                "color": BLACK if colour == BLUE else GREY,
                "marker": "|",
                "markersize": 6,
                "linewidth": 1.3,
            }
            ax.plot([hi, lo], [place, place], **whisker)
        elif state == "not_reached":
            ax.barh(place, end - start, left=start, height=0.56, color=colour, alpha=0.3)
        if math.isfinite(row["onset_log_snr"]) and state != "collapsed_at_recon" and NO_ONSET_FLAG not in row["flag"]:
            ax.plot(row["onset_log_snr"], place, color=ORANGE, zorder=5, **_ONSET)
        column_text(ax, place, _fate(row), 8, "left")
    clean.set_xlim(-0.7, 0.7)
    clean.set_xticks([0], ["no\nnoise"])
    clean.tick_params(axis="x", length=0)
    clean.set_yticks(range(len(bars)), names)
    clean.set_ylim(len(bars) - 0.4, -0.6)
    ax.tick_params(labelleft=False, left=False)
    ax.spines["left"].set_visible(False)
    if len(bars) > 1:
        for panel in (clean, ax):
            panel.axhline(len(bars) - 1.5, color=LIGHT, linewidth=0.8)
    ax.set_xlabel("log-SNR of the latent (nats); more noise →")
    column_heading(ax, "half lost at log-SNR", 8, "left")
    onset = "onset: loss beyond the margin is certain"
    if any(NO_ONSET_FLAG in row["flag"] for row in bars):
        onset += " (never told with too few samples)"
    handles: list[Any] = [
        Patch(color=BLUE, alpha=0.85, label="keeps over half of its AUROC above .5"),
        Line2D([], [], color=ORANGE, linestyle="none", label=onset, **_ONSET),
    ]
    states = {row["state"] for row in bars}
    if "collapsed" in states:
        ends = f"{percent(level)} bootstrap interval of its end"
        handles.append(Line2D([], [], color=BLACK, marker="|", label=ends))
    if "not_reached" in states:
        handles.insert(1, Patch(color=BLUE, alpha=0.3, label="keeps it at every step"))
    if "collapsed_at_recon" in states:
        cross = "half is lost already without noise"
        handles.append(Line2D([], [], color=VERMILION, marker="X", markersize=7, linestyle="none", label=cross))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)
    return figure


def _fate(row: Row) -> str:
    """What became of a label under noise, in a few words or as its collapse point."""
    match row["state"]:
        case "collapsed_at_recon":
            return "lost without noise"
        case "collapsed":
            return "lost by the first step" if AT_OR_ABOVE in row["flag"] else short(row["collapse_log_snr"], 1)
        case "not_reached":
            return "not reached"
        case _:
            reasons = [part for part in str(row["flag"]).split("; ") if part.startswith("undefined")]
            return textwrap.fill(reasons[0] if reasons else "undefined", 24)
