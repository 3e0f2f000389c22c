"""Candidates below each other: a figure of each with its interval, and differences with what they show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from layerscope.report.comparison.cells import Difference, number, own, reference, seed_rows
from layerscope.report.comparison.looks import Look, candidate_names, looks
from layerscope.report.comparison.result import Comparison
from layerscope.report.figure_rows import bar_lengths, column_heading, column_text
from layerscope.report.figure_style import BLACK, GREY, LIGHT, SMALL, plain_text, quiet_grid, short_name, signed_ticks
from layerscope.report.sentences import short


def draw_values(axes: Axes, comparison: Comparison, metric: str, words: str, signed: bool) -> None:
    """A figure of every candidate, those from several training seeds with a small tick for each.

    words: of the axis. signed: the figure is a change of macro AUROC, with 0 as a line in a band of the margin.
    """
    names = list(comparison.candidates)
    styles = looks(names)
    quiet_grid(axes, "x")
    if signed:
        _margin(axes, comparison)
    for place, name in enumerate(names):
        row = own(comparison, name, metric)
        if not math.isfinite(number(row)):
            column_text(axes, place, "not measured", 6, "left")
            continue
        _dot(axes, styles[name], place, number(row), number(row, "ci_lo"), number(row, "ci_hi"))
        seeds = [number(seed) for seed in seed_rows(comparison, name, metric)]
        axes.plot(seeds, np.full(len(seeds), place + 0.27), "|", color=styles[name].colour, markersize=5, zorder=3)
        column_text(axes, place, _interval(number(row), number(row, "ci_lo"), number(row, "ci_hi"), signed), 6, "left")
    _name_rows(axes, candidate_names(comparison, names))
    axes.set_xlabel(words)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if signed:
        _show_margin(axes, comparison)
        signed_ticks(axes, "x")
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value, 2)))


def draw_differences(axes: Axes, comparison: Comparison, found: Sequence[Difference], every: bool = False) -> None:
    """Differences to the reference with simultaneous intervals, the margin as a band, and the outcome in words.

    every: a row for each candidate, in their order, also those without a difference: for a panel beside others.
    """
    names = list(comparison.candidates) if every else [one.candidate for one in found]
    styles = looks(comparison.candidates)
    quiet_grid(axes, "x")
    _margin(axes, comparison)
    for one in found:
        place = names.index(one.candidate)
        _dot(axes, styles[one.candidate], place, one.value, one.sim_lo, one.sim_hi)
        column_text(axes, place, _interval(one.value, one.sim_lo, one.sim_hi, True), 6, "left")
        column_text(axes, place, plain_text(short_name(one.outcome, 40)), 108, "left")
    column_heading(axes, "difference", 6, "left")
    column_heading(axes, "outcome", 108, "left")
    _name_rows(axes, candidate_names(comparison, names))
    _show_margin(axes, comparison)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    signed_ticks(axes, "x")
    against = plain_text(short_name(reference(comparison) or "", 24))
    axes.set_xlabel(f"macro AUROC less that of {against}" + " (the best)" * (comparison.baseline is None))


def _margin(axes: Axes, comparison: Comparison) -> None:
    axes.axvspan(-comparison.margin, comparison.margin, color=LIGHT, alpha=0.45, linewidth=0, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.9, zorder=1)


def _show_margin(axes: Axes, comparison: Comparison) -> None:
    """Widens the axis where it would end within the margin."""
    edge = 1.15 * comparison.margin
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, -edge), max(right, edge))


def _dot(axes: Axes, look: Look, place: float, value: float, lo: float, hi: float) -> None:
    bars = bar_lengths(np.array([value]), [lo], [hi])
    axes.errorbar([value], [place], xerr=bars, color=look.colour, linestyle="none", elinewidth=1.4, zorder=3)
    axes.plot([value], [place], linestyle="none", zorder=4, **look.mark())


def _interval(value: float, lo: float, hi: float, sign: bool) -> str:
    if not math.isfinite(lo + hi):
        return short(value, sign=sign)
    return f"{short(value, sign=sign)} [{short(lo, sign=sign)}, {short(hi, sign=sign)}]"


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=SMALL, color=BLACK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for place in range(len(names) - 1):
        axes.axhline(place + 0.5, color="#F4F4F4", linewidth=0.8, zorder=0)
