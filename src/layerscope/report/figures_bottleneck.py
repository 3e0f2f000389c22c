"""The figures of a bottleneck diagnosis. Each is made from table rows alone, fresh or read back from the CSV files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from layerscope.report.bottleneck import BottleneckAnalysis
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
    VERDICT_COLOURS,
    VERDICT_MARKERS,
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
from layerscope.report.rows import ALL, MACRO
from layerscope.report.sentences import MINUS, short

Row = Mapping[str, Any]
Names = dict[str, str] | None


def bottleneck_figures(analysis: BottleneckAnalysis, margin_macro: float, margin_label: float) -> dict[str, Figure]:
    """File name to figure; figures that have nothing to show (no noise steps, no features) are left out."""
    names = analysis.display_names
    level = analysis.verdict["overall"]["level"]
    figures: dict[str, Figure | None] = {
        "t_curve.png": t_curve_figure(analysis.t_curve, margin_macro, level),
        "label_t_heatmap.png": heat_map_figure(analysis.per_label, names),
        "collapse.png": collapse_figure(analysis.collapse, analysis.t_curve, level, names),
        "delta_auroc_forest.png": forest_figure(
            analysis.per_label, analysis.verdict, margin_macro, margin_label, names
        ),
        "flips.png": flips_figure(analysis.agreement, names),
        "stage_cosines.png": cosine_figure(analysis.agreement),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def t_curve_figure(rows: Sequence[Row], margin: float, level: float) -> Figure | None:
    """Macro AUROC and AP: without noise, against log-SNR with noise growing to the right, and under the controls.

    rows: t_curve.csv. level: of its intervals, in (0, 1). The AUROC band is the simultaneous band of the difference,
    placed at the real value; the AP band is pointwise. Bands are cut at 0 and 1, which no value can pass. None where
    no label is defined.
    """
    macro = [row for row in rows if row["label"] == MACRO and row["metric"] in ("auroc", "ap")]
    real = {metric: _cell(macro, "real", metric) for metric in ("auroc", "ap")}
    if not math.isfinite(real["auroc"]):
        return None
    steps = _noise_names(macro)
    controls = _control_names(macro)
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


_SERIES = (("auroc", BLUE, "o"), ("ap", VERMILION, "s"))


def _categories(panel: Axes, rows: Sequence[Row], names: Sequence[str], heading: str) -> None:
    """Conditions side by side, AUROC and AP of each with their intervals."""
    for metric, colour, marker in _SERIES:
        found = [_row(rows, name, metric) for name in names]
        y = np.array([row["value"] for row in found])
        offset = -0.09 if metric == "auroc" else 0.09
        x = np.arange(len(names)) + offset
        bars = _bars(y, *_possible([row["ci_lo"] for row in found], [row["ci_hi"] for row in found]))
        _whole(panel.errorbar(x, y, bars, color=colour, marker=marker, markersize=4.5, linewidth=1.1, linestyle="none"))
    panel.set_xticks(range(len(names)), [plain_text(name) for name in names])
    for tick in panel.get_xticklabels():
        tick.set(rotation=90)
    panel.set_xlim(-0.6, len(names) - 0.4)
    panel.set_title(heading, fontsize=MEDIUM, color=BLACK, pad=6)


def _noise_panel(panel: Axes, rows: Sequence[Row], real_auroc: float) -> None:
    for metric, colour, marker in _SERIES:
        mean = _noise_rows(rows, metric)
        x = [row["log_snr"] for row in mean]
        if metric == "auroc":
            ends = ([real_auroc + row["ci_sim_lo"] for row in mean], [real_auroc + row["ci_sim_hi"] for row in mean])
        else:
            ends = ([row["ci_lo"] for row in mean], [row["ci_hi"] for row in mean])
        lo, hi = _possible(*ends)
        if len(mean) > 1:
            panel.fill_between(x, lo, hi, color=colour, alpha=0.16, linewidth=0, zorder=1)
        else:
            y = np.array([row["value"] for row in mean])
            _whole(panel.errorbar(x, y, _bars(y, lo, hi), color=colour, linewidth=1.1, linestyle="none"))
        values = [row["value"] for row in mean]
        panel.plot(x, values, color=colour, marker=marker, markersize=4.5, linewidth=1.5, clip_on=False)
        draws = [
            r for r in rows if r["metric"] == metric and isinstance(r["draw"], int) and math.isfinite(r["log_snr"])
        ]
        x, values = [r["log_snr"] for r in draws], [r["value"] for r in draws]
        panel.scatter(x, values, s=5, color=colour, alpha=0.5, linewidths=0, clip_on=False)
    noise_axis(panel, [(row["log_snr"], row["t"]) for row in _noise_rows(rows, "auroc")])
    panel.set_xlabel("log-SNR of the latent (nats); more noise →")


def noise_axis(panel: Axes, steps: Sequence[tuple[float, int]]) -> None:
    """log-SNR falling to the right, and the steps t on a second axis on top, as many as fit."""
    positions = [log_snr for log_snr, _ in steps]
    span = max(positions) - min(positions)
    pad = 0.04 * span if span else 1.0
    panel.set_xlim(max(positions) + pad, min(positions) - pad)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}".replace("-", MINUS)))
    if not span:
        panel.set_xticks(positions[:1])
    top = panel.secondary_xaxis("top")
    shown: list[tuple[float, int]] = []
    for log_snr, t in sorted(steps, reverse=True):
        if not shown or shown[-1][0] - log_snr > 0.055 * (span + 2 * pad):
            shown.append((log_snr, t))
    top.set_xticks([log_snr for log_snr, _ in shown], [str(t) for _, t in shown], fontsize=SMALL)
    top.tick_params(length=3, width=0.8, colors=BLACK)
    top.spines["top"].set_visible(False)
    top.set_xlabel("step t of the noise schedule", fontsize=MEDIUM)


def heat_map_figure(rows: Sequence[Row], display: Names = None) -> Figure | None:
    """ΔAUROC of every label at recon and at every noise step; labels that lose most at recon on top.

    rows: per_label.csv. Bold: adjusted p below .05. Hatched: undefined. None where there is no label.
    """
    auroc = [row for row in rows if row["metric"] == "auroc" and row["draw"] in (None, "mean")]
    columns = ["recon", *_noise_names(auroc)]
    cells = {(row["label"], row["condition"]): row for row in auroc}
    labels = _sorted_labels([row for row in auroc if row["condition"] == "recon"])
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
    steps = [(row["log_snr"], row["t"]) for row in _noise_rows([r for r in t_curve if r["label"] == MACRO], "auroc")]
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
        if math.isfinite(row["onset_log_snr"]) and state != "collapsed_at_recon" and _NO_ONSET not in row["flag"]:
            ax.plot(row["onset_log_snr"], place, color=ORANGE, zorder=5, **_ONSET)
        _beside(ax, place, _fate(row), 8, "left")
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
    _heading(ax, "half lost at log-SNR", 8, "left")
    onset = "onset: loss beyond the margin is certain"
    if any(_NO_ONSET in row["flag"] for row in bars):
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


# How collapse.csv flags a point above the first step, and a label that has too few samples for an onset.
_BOUND, _NO_ONSET = "the point is a bound", "no onset"
_ONSET: dict[str, Any] = {"marker": "D", "markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 1.5}


def _fate(row: Row) -> str:
    """What became of a label under noise, in a few words or as its collapse point."""
    match row["state"]:
        case "collapsed_at_recon":
            return "lost without noise"
        case "collapsed":
            return "lost by the first step" if _BOUND in row["flag"] else short(row["collapse_log_snr"], 1)
        case "not_reached":
            return "not reached"
        case _:
            reasons = [part for part in str(row["flag"]).split("; ") if part.startswith("undefined")]
            return textwrap.fill(reasons[0] if reasons else "undefined", 24)


def forest_figure(
    per_label: Sequence[Row],
    verdict: Mapping[str, Any],
    margin_macro: float,
    margin_label: float,
    display: Names = None,
) -> Figure | None:
    """ΔAUROC on reconstructions per label and macro, with intervals, the margins, and verdict colours.

    per_label: the CSV table, for the interval of each label alone (thick). verdict: ``verdict`` of summary.json, which
    decides: its words give colours and markers, its intervals, simultaneous over labels, are the thin lines. Hollow: a
    label that is withheld because it has too few samples. The macro average is the one that was judged.
    """
    overall, entries = verdict["overall"], sorted(verdict["per_label"], key=_loss)
    if not entries:
        return None
    alone = {row["label"]: row for row in per_label if row["metric"] == "auroc" and row["condition"] == "recon"}
    names = [*label_names([entry["label"] for entry in entries], display), _macro_name(overall)]
    figure, (ax,) = new_figure(WIDTH, 1.45 + 0.29 * len(names))
    shown: dict[tuple[str, bool], None] = {}
    edges = [0.0, -margin_label, -margin_macro]
    _heading(ax, "AUROC\nreal", 34, "right")
    _heading(ax, "ΔAUROC [interval]", 48, "left")
    _heading(ax, "posi-\ntives", 184, "right")
    for place, entry in enumerate([*entries, overall]):
        real, delta, lo, hi = (_number(entry[key]) for key in ("auroc_real", "delta_auroc", "ci_lo", "ci_hi"))
        _beside(ax, place, str(entry.get("n_pos", "")), 184, "right")
        if not math.isfinite(delta):
            _beside(ax, place, f"undefined: {entry['reason']}", 48, "left")
            continue
        _beside(ax, place, short(real, 2), 34, "right")
        _beside(ax, place, f"{short(delta, sign=True)}  [{short(lo, sign=True)}, {short(hi, sign=True)}]", 48, "left")
        look = (entry["verdict"], _is_withheld(entry))
        shown[look] = None
        colour = VERDICT_COLOURS[look[0]]
        thick = (lo, hi)
        if entry is not overall:
            thick = (alone[entry["label"]]["delta_ci_lo"], alone[entry["label"]]["delta_ci_hi"])
            ax.plot([lo, hi], [place, place], color=colour, linewidth=1.2, solid_capstyle="butt")
        ax.plot(thick, [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        ax.plot(delta, place, zorder=4, **_verdict_look(*look))
        edges += [value for value in (lo, hi, delta, *thick) if math.isfinite(value)]
    span = max(edges) - min(edges)
    last = len(names) - 1
    ax.axvline(0, color=GREY, linewidth=0.9, zorder=0)
    ax.plot([-margin_label] * 2, [-0.6, last - 0.5], color=BLACK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    ax.plot([-margin_macro] * 2, [last - 0.5, last + 0.5], color=BLACK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    ax.axhline(last - 0.5, color=LIGHT, linewidth=0.8)
    ax.set_xlim(min(edges) - 0.05 * span, max(edges) + 0.05 * span)
    ax.set_ylim(last + 0.5, -0.6)
    ax.set_yticks(range(len(names)), names)
    signed_ticks(ax, "x")
    ax.set_xlabel("ΔAUROC of the reconstruction (recon − real)")
    handles: list[Any] = []
    for word in VERDICT_COLOURS:
        for few in (False, True):
            if (word, few) in shown:
                note = {"undefined": "undefined: not recognised on real images"}.get(word, word)
                name = f"{word}: too few samples" if few else note
                handles.append(Line2D([], [], linestyle="none", label=name, **_verdict_look(word, few)))
    sure = percent(overall["level"])
    handles.append(Line2D([], [], color=BLACK, linewidth=1.0, linestyle=(0, (4, 3)), label="margin"))
    handles.append(Line2D([], [], color=GREY, linewidth=3, label=f"{sure}, one label (or the average) alone"))
    handles.append(Line2D([], [], color=GREY, linewidth=1.2, label=f"{sure}, all labels jointly (in brackets)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)
    return figure


def _is_withheld(entry: Mapping[str, Any]) -> bool:
    """Whether there were too few samples for any other verdict ("only 3 positives", "every label has too few")."""
    return entry["verdict"] == "inconclusive" and entry["reason"].startswith(("only ", "every label has too few"))


def _verdict_look(verdict: str, too_few: bool) -> dict[str, Any]:
    """Marker of a verdict; hollow where it was withheld because of too few samples."""
    colour = VERDICT_COLOURS[verdict]
    look: dict[str, Any] = {"color": colour, "marker": VERDICT_MARKERS[verdict], "markersize": 6}
    if too_few:
        return {**look, "markerfacecolor": "white", "markeredgewidth": 1.5}
    return look if look["marker"] == "x" else {**look, "markeredgecolor": "white", "markeredgewidth": 0.5}


def _macro_name(overall: Mapping[str, Any]) -> str:
    left_out = len(overall["labels_left_out"])
    return f"macro average\n({overall['n_labels_used']} labels; {left_out} left out)" if left_out else "macro average"


def _number(value: float | None) -> float:
    """Undefined numbers are null in summary.json."""
    return math.nan if value is None else float(value)


def _loss(entry: Mapping[str, Any]) -> float:
    """Sorts the largest loss first and undefined labels last."""
    delta = _number(entry["delta_auroc"])
    return delta if math.isfinite(delta) else math.inf


def _heading(ax: Axes, text: str, points: float, align: str) -> None:
    """Head of a text column that ``_beside`` fills."""
    ax.annotate(
        text,
        (1.0, 1.0),
        xycoords="axes fraction",
        xytext=(points, 3),
        textcoords="offset points",
        ha=align,
        va="bottom",
        fontsize=SMALL,
        fontweight="bold",
        color=BLACK,
    )


def _beside(ax: Axes, place: int, text: str, points: float, align: str) -> None:
    """Text to the right of a row of the plot, that far from its edge."""
    ax.annotate(
        text,
        (1.0, place),
        xycoords=("axes fraction", "data"),
        xytext=(points, 0),
        textcoords="offset points",
        ha=align,
        va="center",
        fontsize=SMALL,
        color=BLACK,
    )


def flips_figure(rows: Sequence[Row], display: Names = None, condition: str = "recon") -> Figure | None:
    """Share of decisions that flip at the global threshold, split into right-to-wrong and wrong-to-right.

    rows: agreement.csv. None where no threshold was given.
    """
    found = {
        (row["label"], row["metric"]): row
        for row in rows
        if row["condition"] == condition and row["draw"] in (None, "mean") and row["metric"].endswith("flip_rate")
    }
    labels = [
        label for label, metric in found if metric == "flip_rate" and math.isfinite(found[label, metric]["value"])
    ]
    if not labels:
        return None
    ordered = sorted(
        (label for label in labels if label != MACRO), key=lambda label: -found[label, "flip_rate"]["value"]
    )
    ordered += [label for label in labels if label == MACRO]
    names = [*label_names([label for label in ordered if label != MACRO], display)]
    names += ["macro average"] * (MACRO in ordered)
    figure, (ax,) = new_figure(WIDTH * 0.8, 1.15 + 0.27 * len(ordered))
    quiet_grid(ax, "x")
    widest = 0.0
    for place, label in enumerate(ordered):
        negative, positive, both = (
            found[label, metric] for metric in ("negative_flip_rate", "positive_flip_rate", "flip_rate")
        )
        bad, good = 100 * negative["value"], 100 * positive["value"]
        ax.barh(place, bad, color=VERMILION, height=0.6)
        ax.barh(place, good, left=bad, color=SKY, height=0.6, hatch="///", edgecolor="white", linewidth=0)
        lo, hi = 100 * both["ci_lo"], 100 * both["ci_hi"]
        ax.plot([lo, hi], [place, place], color=BLACK, linewidth=1.1)
        ax.plot([lo, hi], [place, place], "|", color=BLACK, markersize=5)
        widest = max(widest, bad + good, hi if math.isfinite(hi) else 0.0)
    ax.set_yticks(range(len(ordered)), names)
    ax.set_ylim(len(ordered) - 0.4, -0.6)
    ax.set_xlim(0, max(1.06 * widest, 0.5))
    ax.set_xlabel("decisions that flip on the reconstruction (%)")
    handles = [
        Patch(color=VERMILION, label="right → wrong"),
        Patch(facecolor=SKY, hatch="///", edgecolor="white", linewidth=0, label="wrong → right"),
        Line2D([], [], color=BLACK, marker="|", markersize=5, linewidth=1.1, label="interval of the sum"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    return figure


def cosine_figure(rows: Sequence[Row]) -> Figure | None:
    """How far embedding and stages move: cosines at recon beside their null level, and normalised over noise.

    rows: agreement.csv. None where the teacher shows no features.
    """
    found = [row for row in rows if row["label"] == ALL and row["draw"] in (None, "mean")]
    metrics = list(
        dict.fromkeys(
            row["metric"] for row in found if row["condition"] == "recon" and not row["metric"].endswith("_normalised")
        )
    )
    if not metrics:
        return None
    cells = {(row["condition"], row["metric"]): row for row in found}
    sources = list(dict.fromkeys(_source(metric) for metric in metrics))
    # The embedding lies behind the last stage.
    sources.sort(key=lambda source: source == "embedding")
    noise = _noise_names(found)
    figure = Figure(figsize=(WIDTH, 6.4 if noise else 3.6), layout="constrained")
    grid = figure.add_gridspec(2 if noise else 1, 2)
    raw, normalised = (figure.add_subplot(grid[0, column]) for column in (0, 1))
    names = [plain_text(source) for source in sources]
    for panel, heading in ((raw, "cosine"), (normalised, "normalised cosine")):
        plain_axes(panel)
        quiet_grid(panel, "y")
        panel.set_xticks(range(len(sources)), names, rotation=35, ha="right")
        panel.set_xlim(-0.5, len(sources) - 0.5)
        panel.set_ylabel(f"{heading} to the original")
        panel.yaxis.set_major_formatter(FuncFormatter(_cosine_text))
    raw.set_title("reconstruction, shallow to deep", fontsize=MEDIUM)
    normalised.set_title("(cosine − null) / (1 − null)", fontsize=MEDIUM)
    normalised.axhline(0, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    handles: list[Any] = []
    for kind, (name, shift, look) in _KINDS.items():
        own = [metric for metric in metrics if _kind(metric) == kind]
        for metric in own:
            x = sources.index(_source(metric)) + shift
            null = cells["null", metric]["value"]
            raw.plot([x - 0.13, x + 0.13], [null, null], color=look["color"], linewidth=2, alpha=0.6)
            for panel, shown in ((raw, metric), (normalised, f"{metric}_normalised")):
                row = cells["recon", shown]
                y = np.array([row["value"]])
                panel.errorbar([x], y, _bars(y, [row["ci_lo"]], [row["ci_hi"]]), markersize=5.5, **look)
        if own:
            handles.append(Line2D([], [], markersize=5.5, linestyle="none", label=name, **look))
    bottom, top = normalised.get_ylim()
    normalised.set_ylim(min(bottom, -0.05), max(top, 0.05))
    handles += [
        Line2D([], [], color=GREY, linewidth=2, label="null: pairs of different originals"),
        Line2D([], [], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), label="0: as unlike as different originals"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    if noise:
        below = figure.add_subplot(grid[1, :])
        plain_axes(below)
        _cosines_over_noise(below, cells, metrics, sources, noise)
    return figure


# Kind of feature: its name, where it stands beside its stage, and its look.
_KINDS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "pooled": ("pooled maps", -0.16, {"color": BLUE, "marker": "o"}),
    "position": ("per position", 0.16, {"color": VERMILION, "marker": "s"}),
    "": ("embedding", 0.0, {"color": BLACK, "marker": "D"}),
}


def _cosines_over_noise(
    panel: Axes,
    cells: Mapping[tuple[str, str], Row],
    metrics: Sequence[str],
    sources: Sequence[str],
    noise: Sequence[str],
) -> None:
    """Normalised cosines per position, and of the embedding, against log-SNR; zero is the level of other images.

    Pooled maps are left to the table: different originals are so alike there that (cos − null)/(1 − null) runs away.
    """
    quiet_grid(panel, "y")
    panel.axhline(0, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    for place, source in enumerate(sources):
        metric = next(m for m in metrics if _source(m) == source and _kind(m) in ("position", ""))
        across = [cells[name, f"{metric}_normalised"] for name in noise]
        colour, marker = (BLACK, "D") if source == "embedding" else _STAGES[place % len(_STAGES)]
        panel.plot(
            [row["log_snr"] for row in across],
            [row["value"] for row in across],
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.5,
            # A teacher with more stages than colours: the second round is dashed.
            linestyle="-" if place < len(_STAGES) else (0, (4, 2)),
            label=plain_text(source),
        )
    first = f"{metrics[0]}_normalised"
    noise_axis(panel, [(cells[name, first]["log_snr"], int(cells[name, first]["t"])) for name in noise])
    panel.set_xlabel("log-SNR of the latent (nats); more noise →")
    panel.legend(fontsize=SMALL, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    panel.set_ylabel("normalised cosine, per position")
    panel.yaxis.set_major_formatter(FuncFormatter(_cosine_text))


_STAGES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (VERMILION, "v"), (SKY, "P"), (PURPLE, "X"))


def _cosine_text(value: float, _: int | None = None) -> str:
    return "0" if abs(value) < 1e-9 else f"{value:.2g}".replace("-", MINUS).replace("0.", ".", 1)


def _source(metric: str) -> str:
    return metric.removesuffix("_cosine").removesuffix(".pooled").removesuffix(".position")


def _kind(metric: str) -> str:
    name = metric.removesuffix("_cosine")
    return "pooled" if name.endswith(".pooled") else "position" if name.endswith(".position") else ""


def _row(rows: Sequence[Row], condition: str, metric: str) -> Row:
    return next(
        r for r in rows if r["condition"] == condition and r["metric"] == metric and r["draw"] in (None, "mean")
    )


def _cell(rows: Sequence[Row], condition: str, metric: str) -> float:
    return float(_row(rows, condition, metric)["value"])


def _noise_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """Draw-averaged rows of the noise steps, from little to much noise; pure noise has no place on the axis."""
    found = [
        r
        for r in rows
        if r["t"] is not None and math.isfinite(r["log_snr"]) and r["metric"] == metric and r["draw"] == "mean"
    ]
    return sorted(found, key=lambda row: -row["log_snr"])


def _noise_names(rows: Sequence[Row]) -> list[str]:
    steps = {row["condition"]: row["log_snr"] for row in rows if row["t"] is not None and math.isfinite(row["log_snr"])}
    return sorted(steps, key=lambda name: -steps[name])


def _control_names(rows: Sequence[Row]) -> list[str]:
    return list(
        dict.fromkeys(
            row["condition"] for row in rows if row["t"] is None and row["condition"] not in ("real", "recon")
        )
    )


def _sorted_labels(recon: Sequence[Row]) -> list[str]:
    """Labels by ΔAUROC, the largest loss first, undefined ones last."""
    defined = sorted((row for row in recon if math.isfinite(row["delta"])), key=lambda row: row["delta"])
    undefined = [row for row in recon if not math.isfinite(row["delta"])]
    return [row["label"] for row in [*defined, *undefined]]


def _bars(value: np.ndarray, lo: Sequence[float] | np.ndarray, hi: Sequence[float] | np.ndarray) -> np.ndarray:
    """Lengths of error bars below and above; none where the interval is unknown."""
    return np.nan_to_num(np.maximum([value - np.asarray(lo), np.asarray(hi) - value], 0.0))


def _possible(lo: Sequence[float], hi: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Ends of intervals within [0, 1], which AUROC and AP cannot leave."""
    return np.clip(lo, 0.0, 1.0), np.clip(hi, 0.0, 1.0)


def _whole(bars: ErrorbarContainer) -> None:
    """Markers at 0 or 1 are shown whole although the axis ends there."""
    for artist in bars.get_children():
        artist.set_clip_on(False)
