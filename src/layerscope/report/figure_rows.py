"""Rows of a diagnosis' tables as figures need them, and the noise axis they share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.ticker import FuncFormatter

from layerscope.report.figure_style import (
    BLACK,
    MEDIUM,
    SMALL,
)
from layerscope.report.sentences import MINUS

Row = Mapping[str, Any]
Names = dict[str, str] | None


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


def column_heading(ax: Axes, text: str, points: float, align: str) -> None:
    """Head of a text column that ``column_text`` fills."""
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


def column_text(ax: Axes, place: int, text: str, points: float, align: str) -> None:
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


def row_of(rows: Sequence[Row], condition: str, metric: str) -> Row:
    return next(
        r for r in rows if r["condition"] == condition and r["metric"] == metric and r["draw"] in (None, "mean")
    )


def cell_of(rows: Sequence[Row], condition: str, metric: str) -> float:
    return float(row_of(rows, condition, metric)["value"])


def noise_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """Draw-averaged rows of the noise steps, from little to much noise; pure noise has no place on the axis."""
    found = [
        r
        for r in rows
        if r["t"] is not None and math.isfinite(r["log_snr"]) and r["metric"] == metric and r["draw"] == "mean"
    ]
    return sorted(found, key=lambda row: -row["log_snr"])


def noise_names(rows: Sequence[Row]) -> list[str]:
    steps = {row["condition"]: row["log_snr"] for row in rows if row["t"] is not None and math.isfinite(row["log_snr"])}
    return sorted(steps, key=lambda name: -steps[name])


def control_names(rows: Sequence[Row]) -> list[str]:
    return list(
        dict.fromkeys(
            row["condition"] for row in rows if row["t"] is None and row["condition"] not in ("real", "recon")
        )
    )


def sorted_labels(recon: Sequence[Row]) -> list[str]:
    """Labels by ΔAUROC, the largest loss first, undefined ones last."""
    defined = sorted((row for row in recon if math.isfinite(row["delta"])), key=lambda row: row["delta"])
    undefined = [row for row in recon if not math.isfinite(row["delta"])]
    return [row["label"] for row in [*defined, *undefined]]


def bar_lengths(value: np.ndarray, lo: Sequence[float] | np.ndarray, hi: Sequence[float] | np.ndarray) -> np.ndarray:
    """Lengths of error bars below and above; none where the interval is unknown."""
    return np.nan_to_num(np.maximum([value - np.asarray(lo), np.asarray(hi) - value], 0.0))


def possible_range(lo: Sequence[float], hi: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Ends of intervals within [0, 1], which AUROC and AP cannot leave."""
    return np.clip(lo, 0.0, 1.0), np.clip(hi, 0.0, 1.0)


def unclipped(bars: ErrorbarContainer) -> None:
    """Markers at 0 or 1 are shown whole although the axis ends there."""
    for artist in bars.get_children():
        artist.set_clip_on(False)
