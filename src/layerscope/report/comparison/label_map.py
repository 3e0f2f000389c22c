"""Which label each candidate loses: a heat map of labels by candidates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from layerscope.report.comparison.cells import label_value
from layerscope.report.comparison.looks import candidate_names
from layerscope.report.comparison.result import Comparison
from layerscope.report.figure_style import (
    BLACK,
    GREY,
    MEDIUM,
    SMALL,
    label_names,
    signed_ticks,
)
from layerscope.report.rows import MACRO
from layerscope.report.sentences import short

_WIDEST = 0.05
"""The colours' ends are never nearer to 0 than this, so that small changes look small."""


_UPRIGHT = 6
"""Names of so many letters fit below a cell as they are."""


def columns(comparison: Comparison) -> list[str]:
    """Candidates of the map: all, of classifiers all but the baseline, which they are held against."""
    against = comparison.baseline if comparison.kind == "classifier" else None
    return [name for name in comparison.candidates if name != against]


def label_cells(comparison: Comparison) -> np.ndarray:
    """(labels + 1, candidates), the average last: change of AUROC from real images; of classifiers the difference to
    the baseline, or AUROC itself where there is none. NaN where undefined."""
    labels = [*comparison.labels, MACRO]
    values = np.array([[label_value(comparison, name, label) for name in columns(comparison)] for label in labels])
    if comparison.kind == "classifier" and comparison.baseline is not None:
        values = values - np.array([[label_value(comparison, comparison.baseline, label)] for label in labels])
    return values


def scale_words(comparison: Comparison) -> str:
    """What the numbers of the map are."""
    if comparison.kind == "bottleneck":
        return "ΔAUROC to real, without noise"
    return "AUROC" if comparison.baseline is None else "ΔAUROC to the baseline"


def draw_label_map(axes: Axes, comparison: Comparison) -> None:
    """Labels in the order of the data, their average below; one scale, white at 0, for all cells.

    Labels that are in no average are grey with their number; cells without a value are hatched.
    """
    values, names = label_cells(comparison), columns(comparison)
    signed = comparison.kind == "bottleneck" or comparison.baseline is not None
    left_out = [label in comparison.left_out for label in comparison.labels] + [False]
    coloured = np.ma.masked_array(values, ~np.isfinite(values) | np.array(left_out)[:, None])
    limit = max(float(np.abs(coloured).max()) if coloured.count() else 0.0, _WIDEST)
    norm = TwoSlopeNorm(0.0, -limit, limit) if signed else TwoSlopeNorm(0.5, 0.0, 1.0)
    image = axes.imshow(coloured, cmap="RdBu", norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if not math.isfinite(value) or left_out[i]:
            hatch = None if math.isfinite(value) else "////"
            grey: dict[str, Any] = {"facecolor": "#F2F2F2", "edgecolor": GREY, "hatch": hatch, "linewidth": 0}
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **grey))
        if not math.isfinite(value):
            continue
        dark = not left_out[i] and abs(norm(value) - 0.5) > 0.31
        colour = GREY if left_out[i] else "white" if dark else BLACK
        text = "0" if value == 0 else short(value)
        axes.text(j, i, text, ha="center", va="center", fontsize=SMALL - 0.5, color=colour)
    rows = label_names(comparison.labels, dict(comparison.display))
    axes.axhline(len(rows) - 0.5, color="white", linewidth=3)
    axes.set_yticks(range(len(rows) + 1), [*rows, "macro average"], fontsize=SMALL)
    for tick, out in zip(axes.get_yticklabels(), left_out):
        tick.set_color(GREY if out else BLACK)
    shown = candidate_names(comparison, names, 22)
    turned: dict[str, Any] = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, shown)) > _UPRIGHT else {}
    )
    axes.set_xticks(range(len(names)), shown, fontsize=SMALL, **turned)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    notes = ["grey: in no average"] * any(left_out) + ["hatched: undefined"] * (not np.isfinite(values).all())
    axes.set_title("    ".join(notes), fontsize=SMALL, color=BLACK, loc="right")
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, fraction=0.035, pad=0.02, aspect=max(8, 3 * len(values)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL, length=2)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    if signed:
        signed_ticks(bar.ax, "y")
    else:
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value, 1)))
    bar.set_label(scale_words(comparison), fontsize=MEDIUM)
