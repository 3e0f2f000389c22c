"""The figures of a bottleneck diagnosis. Each is made from table rows alone, fresh or read back from the CSV files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from layerscope.functional.verdict import decide
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
    png,
    quiet_grid,
    signed_ticks,
    title,
)
from layerscope.report.rows import ALL, MACRO, MICRO
from layerscope.report.sentences import MINUS, short

Row = Mapping[str, Any]
Names = dict[str, str] | None

_CONTROL_MARKERS = ("s", "D", "^", "v", "P", "X", "<", ">", "p", "h")


def bottleneck_figures(analysis: BottleneckAnalysis, margin_macro: float, margin_label: float) -> dict[str, Figure]:
    """File name to figure; figures that have nothing to show (no noise steps, no features) are left out."""
    names = analysis.display_names
    figures: dict[str, Figure | None] = {
        "t_curve.png": t_curve_figure(analysis.t_curve, margin_macro),
        "label_t_heatmap.png": heat_map_figure(analysis.per_label, names),
        "collapse.png": collapse_figure(analysis.collapse, analysis.t_curve, names),
        "delta_auroc_forest.png": forest_figure(
            analysis.per_label, analysis.t_curve, margin_macro, margin_label, names
        ),
        "flips.png": flips_figure(analysis.agreement, names),
        "stage_cosines.png": cosine_figure(analysis.agreement),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def bottleneck_pngs(analysis: BottleneckAnalysis, margin_macro: float, margin_label: float) -> dict[str, bytes]:
    """File name to PNG bytes, for ``Stage.write_bytes``."""
    return {name: png(figure) for name, figure in bottleneck_figures(analysis, margin_macro, margin_label).items()}


def t_curve_figure(rows: Sequence[Row], margin: float) -> Figure | None:
    """Macro AUROC and AP against log-SNR, noise growing to the right; t on top; real, recon and controls beside.

    rows: t_curve.csv. The band is the simultaneous band of the AUROC difference, moved to the real value.
    """
    found = [row for row in rows if row["label"] == MACRO]
    figure, axes = new_figure(WIDTH, 4.3, 1)
    ax = axes[0]
    reference = {m: _value(found, "real", m) for m in ("auroc", "ap")}
    if not math.isfinite(reference["auroc"]):
        return None
    steps = _noise_steps(found)
    lines: list[tuple[float, str, str]] = []
    lowest = highest = 0.0
    if steps:
        axis = np.array([row["log_snr"] for row in steps])
        lowest, highest = float(axis.min()), float(axis.max())
    pad = max(0.06 * (highest - lowest), 0.5)
    for metric, colour, marker, name in (("auroc", BLUE, "o", "AUROC"), ("ap", VERMILION, "s", "AP")):
        mean = [row for row in _noise_steps(found, metric)]
        recon = next(row for row in found if row["condition"] == "recon" and row["metric"] == metric)
        real = reference[metric]
        ax.axhline(real, color=colour, linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=1)
        lines.append((real, f"real {short(real)}", colour))
        x_recon = highest + 2.2 * pad
        ax.errorbar(
            [x_recon],
            [recon["value"]],
            yerr=_bars([recon["value"]], [recon["ci_lo"]], [recon["ci_hi"]]),
            color=colour,
            marker=marker,
            markersize=6,
            markerfacecolor="white",
            markeredgewidth=1.4,
            capsize=2.5,
            linewidth=1.2,
            linestyle="none",
            zorder=4,
        )
        if not mean:
            continue
        x = [row["log_snr"] for row in mean]
        y = [row["value"] for row in mean]
        if metric == "auroc":
            lo = [real + row["ci_sim_lo"] for row in mean]
            hi = [min(real + row["ci_sim_hi"], 1.0) for row in mean]
        else:
            lo, hi = [row["ci_lo"] for row in mean], [row["ci_hi"] for row in mean]
        ax.fill_between(x, lo, hi, color=colour, alpha=0.16, linewidth=0, zorder=1)
        ax.plot(x, y, color=colour, marker=marker, markersize=4.5, linewidth=1.6, zorder=3, label=f"macro {name}")
        draws = [r for r in found if r["metric"] == metric and r["t"] is not None and isinstance(r["draw"], int)]
        ax.scatter([r["log_snr"] for r in draws], [r["value"] for r in draws], s=5, color=colour, alpha=0.45, zorder=2)
    return figure


def _value(rows: Sequence[Row], condition: str, metric: str) -> float:
    return next((float(r["value"]) for r in rows if r["condition"] == condition and r["metric"] == metric), math.nan)
