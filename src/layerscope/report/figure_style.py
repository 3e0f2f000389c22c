"""One look for all figures: sizes, fonts, colours that colour-blind readers can tell apart.

Figures are made with matplotlib's object interface only: no pyplot, no global state, no display.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from layerscope.report.sentences import MINUS

# Okabe and Ito (2008), distinct under the common kinds of colour blindness.
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILION = "#D55E00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
BLACK = "#222222"
GREY = "#8A8A8A"
LIGHT = "#D9D9D9"

VERDICT_COLOURS = {
    "bottleneck": VERMILION,
    "not a bottleneck": GREEN,
    "inconclusive": ORANGE,
    "undefined": GREY,
}
VERDICT_MARKERS = {"bottleneck": "v", "not a bottleneck": "o", "inconclusive": "s", "undefined": "x"}

WIDTH = 7.2
"""Inches: two columns of a journal page."""

SMALL, MEDIUM, TITLE = 8.0, 9.0, 10.5
"""Font sizes in points."""

DPI = 200

FigureFormat = Literal["png", "pdf", "svg"]


def new_figure(width: float, height: float, n_columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of that many inches with axes side by side; labels get the room they need."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(1, n_columns, column + 1) for column in range(n_columns)]
    for one in axes:
        plain_axes(one)
    return figure, axes


def plain_axes(axes: Axes) -> None:
    """Thin spines on two sides, small ticks, nothing that competes with the data."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
        axes.spines[side].set_linewidth(0.8)
    axes.tick_params(labelsize=SMALL, colors=BLACK, length=3, width=0.8)
    axes.xaxis.label.set_fontsize(MEDIUM)
    axes.yaxis.label.set_fontsize(MEDIUM)
    axes.set_axisbelow(True)


def title(axes: Axes, text: str) -> None:
    """What the figure shows, left-aligned above it."""
    axes.set_title(text, loc="left", fontsize=TITLE, color=BLACK, fontweight="bold")


def quiet_grid(axes: Axes, along: str) -> None:
    """Faint lines across the axis on which values are read: ``x`` or ``y``."""
    axes.grid(axis="x" if along == "x" else "y", color="#ECECEC", linewidth=0.8)


def short_name(name: str, length: int = 28) -> str:
    """A label name that fits beside a plot; the middle is left out, because both ends tell names apart."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[len(name) - (length - 1 - head) :]}"


def plain_text(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def percent(level: float) -> str:
    """A confidence level in words.

    >>> percent(0.95)
    '95 %'
    """
    return f"{100 * level:.3g} %"


def label_names(labels: Sequence[str], display: dict[str, str] | None) -> list[str]:
    """Names to show for labels."""
    return [plain_text(short_name((display or {}).get(label, label))) for label in labels]


def signed_ticks(axes: Axes, along: str, digits: int = 2) -> None:
    """Differences on an axis: signed, no leading zero, a true minus."""

    def text(value: float, _: int | None = None) -> str:
        digits_needed = digits if abs(round(value, digits) - value) < 1e-9 else digits + 1
        body = f"{abs(value):.{digits_needed}f}"
        body = body[1:] if body.startswith("0.") else body
        if math.isclose(value, 0, abs_tol=1e-9):
            return "0"
        return f"{MINUS if value < 0 else '+'}{body}"

    (axes.xaxis if along == "x" else axes.yaxis).set_major_formatter(FuncFormatter(text))


def plain_tick(value: float, _: int | None = None) -> str:
    """A number on an axis: four telling digits at most, no leading zero, a true minus."""
    text = f"{value:.4g}".replace("-", MINUS)
    return "0" if abs(value) < 1e-12 else text.replace("0.", ".", 1) if abs(value) < 1 else text


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, without the date and versions that would make equal figures differ."""
    return figure_bytes(figure, "png", DPI)


def figure_bytes(figure: Figure, format: FigureFormat, dpi: int) -> bytes:
    """The figure as a file, without the date, versions and random names that would make equal figures differ.

    dpi: pixels an inch, of pictures inside a PDF or SVG too.
    """
    unnamed: dict[FigureFormat, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "svg": {"Date": None, "Creator": None},
    }
    buffer = io.BytesIO()
    # Font type 42, since many journals refuse matplotlib's type 3.
    with matplotlib.rc_context({"svg.hashsalt": "layerscope", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=format, dpi=dpi, facecolor="white", metadata=unnamed[format])
    return buffer.getvalue()
