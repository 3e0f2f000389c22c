"""What latent noise does to each candidate: macro AUROC against effective log-SNR, all in one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from layerscope.report.comparison.cells import number
from layerscope.report.comparison.looks import Look, candidate_names, looks
from layerscope.report.comparison.result import REAL, RECON, Comparison
from layerscope.report.figure_rows import bar_lengths, possible_range
from layerscope.report.figure_style import BLACK, GREY, plain_tick, quiet_grid
from layerscope.report.rows import MACRO, Row
from layerscope.report.sentences import short

_SMALLER = 0.85
"""Markers, to where they stand alone."""

_BANDS = 3
"""Up to so many candidates have bands; more would cover each other, and have bars."""

_LEAST_SPAN = 1.0
"""Nats: the axis shows no less, so that steps which nearly agree stand next to each other."""

_DODGE, _ALL_DODGES = 0.012, 0.05
"""Shares of the axis: between one candidate and the next, and at most between the first and the last."""


def curve(comparison: Comparison, candidate: str) -> list[Row]:
    """Macro AUROC under each noise step that has a place on the axis, from little to much noise."""
    rows = [
        row
        for row in comparison.figures
        if (row["candidate"], row["run"], row["metric"], row["label"]) == (candidate, "", "auroc", MACRO)
        and row["condition"] not in (RECON, REAL, "")
        and math.isfinite(number(row, "log_snr_eff"))
        and math.isfinite(number(row))
    ]
    return sorted(rows, key=lambda row: -number(row, "log_snr_eff"))


def with_curves(comparison: Comparison) -> list[str]:
    """Candidates of which a noise step was measured."""
    return [name for name in comparison.candidates if curve(comparison, name)]


def draw_curves(clean: Axes, noisy: Axes, comparison: Comparison) -> list[Line2D]:
    """The reconstructions without noise on the left, the noise steps beside them; returns the legend's entries.

    Both axes share y. Intervals are bands for few candidates, thin bars for many. Candidates stand a little beside each
    other, since at a step that they share their intervals would cover one another.
    """
    names = list(comparison.candidates)
    styles = looks(comparison.candidates)
    with_bands = len(names) <= _BANDS
    for panel in (clean, noisy):
        quiet_grid(panel, "y")
        panel.axhline(0.5, color=GREY, linewidth=0.6, zorder=1)
        if math.isfinite(comparison.auroc_real):
            panel.axhline(comparison.auroc_real, color=BLACK, linewidth=1.1, linestyle=(0, (6, 2)), zorder=1)
    ends = [number(row, "log_snr_eff") for name in names for row in curve(comparison, name)]
    middle, span = (max(ends) + min(ends)) / 2, max(max(ends) - min(ends), _LEAST_SPAN)
    dodge = span * min(_DODGE * (len(names) - 1), _ALL_DODGES)
    for place, name in enumerate(names):
        beside = 0.0 if len(names) < 2 else place / (len(names) - 1) - 0.5
        recon = comparison.of(name, "auroc")
        if recon is not None and math.isfinite(number(recon)):
            _points(clean, styles[name], [0.8 * beside], [recon], bars=True)
        rows = curve(comparison, name)
        if rows:
            # The axis falls to the right.
            x = [number(row, "log_snr_eff") - dodge * beside for row in rows]
            _points(noisy, styles[name], x, rows, bars=not with_bands or len(rows) < 2)
    half = 0.55 * span + dodge / 2
    noisy.set_xlim(middle + half, middle - half)
    noisy.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    noisy.xaxis.set_major_formatter(FuncFormatter(plain_tick))
    noisy.set_xlabel("effective log-SNR of the latent (nats); more noise →")
    noisy.tick_params(labelleft=False, left=False)
    noisy.spines["left"].set_visible(False)
    clean.set_xlim(-0.75, 0.75)
    clean.set_xticks([0], ["no noise"])
    clean.tick_params(axis="x", length=0)
    clean.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value, 2)))
    clean.set_ylabel("macro AUROC")
    bottom, top = clean.get_ylim()
    clean.set_ylim(max(bottom, 0.0), min(top, 1.0))
    return [
        *(_entry(styles[name], shown) for name, shown in zip(names, candidate_names(comparison, names))),
        Line2D([], [], color=BLACK, linewidth=1.1, linestyle=(0, (6, 2)), label="real images"),
        Line2D([], [], color=GREY, linewidth=0.6, label="chance"),
    ]


def _points(panel: Axes, look: Look, x: Sequence[float], rows: Sequence[Row], bars: bool) -> None:
    y = np.array([number(row) for row in rows])
    lo, hi = possible_range([number(row, "ci_lo") for row in rows], [number(row, "ci_hi") for row in rows])
    if bars:
        lengths = bar_lengths(y, lo, hi)
        panel.errorbar(x, y, lengths, color=look.colour, linestyle="none", elinewidth=0.8, alpha=0.55, zorder=2)
    else:
        panel.fill_between(x, lo, hi, color=look.colour, alpha=0.15, linewidth=0, zorder=1)
    panel.plot(x, y, color=look.colour, linestyle=look.dashes, linewidth=1.4, zorder=3)
    panel.plot(x, y, linestyle="none", zorder=4, clip_on=False, **look.mark(_SMALLER))


def _entry(look: Look, name: str) -> Line2D:
    return Line2D([], [], linestyle=look.dashes, linewidth=1.4, label=name, **look.mark(_SMALLER))
