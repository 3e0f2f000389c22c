"""Which label each candidate loses: a heat map of labels by candidates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from layerscope.report.comparison.cells import label_value, main_condition, main_metric, number
from layerscope.report.comparison.looks import candidate_names
from layerscope.report.comparison.result import Comparison
from layerscope.report.figure_style import (
    BLACK,
    GREY,
    MEDIUM,
    SMALL,
    label_names,
    percent,
    signed_ticks,
)
from layerscope.report.rows import MACRO, Row
from layerscope.report.sentences import short

_WIDEST = 0.05
"""The colours' ends are never nearer to 0 than this, so that small changes look small."""

_NOT_RELIABLE = ("not reliable", "of resamples undefined")
"""What the flag of a row says whose interval is no evidence."""

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


def certain_cells(comparison: Comparison) -> np.ndarray:
    """As ``label_cells``: bool, whether the cell's interval leaves out 0; of AUROC itself, chance.

    Of a loss and of AUROC it is the label's own interval, of a difference to the baseline the simultaneous one.
    """
    kind, nothing = ("ci_sim", 0.0) if _to_baseline(comparison) else ("ci", 0.0 if _signed(comparison) else 0.5)
    ends = [[(number(row, f"{kind}_lo"), number(row, f"{kind}_hi")) for row in rows] for rows in _rows(comparison)]
    return np.array([[lo > nothing or hi < nothing for lo, hi in cells] for cells in ends]) & ~unreliable(comparison)


def unreliable(comparison: Comparison) -> np.ndarray:
    """As ``label_cells``: bool, whether the label is in no average, or the cell's row says that it is not reliable."""
    flagged = [[_flagged(row) for row in rows] for rows in _rows(comparison)]
    return (
        np.array(flagged) | np.array([label in comparison.left_out for label in [*comparison.labels, MACRO]])[:, None]
    )


def _flagged(row: Row | None) -> bool:
    return row is not None and any(words in str(row["flag"] or "") for words in _NOT_RELIABLE)


def _rows(comparison: Comparison) -> list[list[Row | None]]:
    """The rows behind ``label_cells``; of a difference in either direction, which is as certain as the other."""
    metric, condition = main_metric(comparison), main_condition(comparison)
    base = comparison.baseline if _to_baseline(comparison) else None
    return [
        [
            comparison.of(name, metric, label, condition)
            if base is None
            else comparison.pair(name, base, metric, label, condition)
            or comparison.pair(base, name, metric, label, condition)
            for name in columns(comparison)
        ]
        for label in [*comparison.labels, MACRO]
    ]


def _to_baseline(comparison: Comparison) -> bool:
    return comparison.kind == "classifier" and comparison.baseline is not None


def _signed(comparison: Comparison) -> bool:
    return comparison.kind == "bottleneck" or comparison.baseline is not None


def heading(comparison: Comparison) -> str:
    """The title of the map."""
    if comparison.kind == "bottleneck":
        return "What each label loses"
    return "AUROC of each label" if comparison.baseline is None else "Labels against the baseline"


def explanation(comparison: Comparison) -> str:
    """What bold, grey and hatched cells are; of the latter two what there is."""
    together = "simultaneous " * _to_baseline(comparison)
    bold = f"bold: {percent(comparison.level)} {together}interval excludes {'0' if _signed(comparison) else '.5'}"
    greys = ["in no average"] * bool(comparison.left_out)
    if any(
        _flagged(row)
        for label, rows in zip([*comparison.labels, MACRO], _rows(comparison))
        if label not in comparison.left_out
        for row in rows
    ):
        greys.append("interval not reliable")
    grey = [f"grey: {' or '.join(greys)}"] * bool(greys)
    hatched = ["hatched: undefined"] * (not np.isfinite(label_cells(comparison)).all())
    return "; ".join([bold, *grey, *hatched])


def draw_label_map(axes: Axes, comparison: Comparison) -> None:
    """Labels in the order of the data, their average below; one scale, white at 0, for all cells.

    Cells that are certain are bold. Labels that are in no average or not reliable are grey with their number; cells
    without a value are hatched.
    """
    values, names = label_cells(comparison), columns(comparison)
    signed, certain, grey = _signed(comparison), certain_cells(comparison), unreliable(comparison)
    coloured = np.ma.masked_array(values, ~np.isfinite(values) | grey)
    limit = max(float(np.abs(coloured).max()) if coloured.count() else 0.0, _WIDEST)
    norm = TwoSlopeNorm(0.0, -limit, limit) if signed else TwoSlopeNorm(0.5, 0.0, 1.0)
    image = axes.imshow(coloured, cmap="RdBu", norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if not math.isfinite(value) or grey[i, j]:
            hatch = None if math.isfinite(value) else "////"
            look: dict[str, Any] = {"facecolor": "#F2F2F2", "edgecolor": GREY, "hatch": hatch, "linewidth": 0}
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **look))
        if not math.isfinite(value):
            continue
        colour = GREY if grey[i, j] else "white" if abs(norm(value) - 0.5) > 0.31 else BLACK
        text = "0" if signed and value == 0 else short(value, sign=signed)
        weight = "bold" if certain[i, j] else "normal"
        axes.text(j, i, text, ha="center", va="center", fontsize=SMALL - 0.5, color=colour, fontweight=weight)
    rows = label_names(comparison.labels, dict(comparison.display))
    axes.axhline(len(rows) - 0.5, color="white", linewidth=3)
    axes.set_yticks(range(len(rows) + 1), [*rows, "macro average"], fontsize=SMALL)
    for tick, out in zip(axes.get_yticklabels(), grey):
        tick.set_color(GREY if out.all() else BLACK)
    shown = candidate_names(comparison, names, 22)
    turned: dict[str, Any] = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, shown)) > _UPRIGHT else {}
    )
    axes.set_xticks(range(len(names)), shown, fontsize=SMALL, **turned)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
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
