"""The layers of a token diagnosis as a table of plain text for the terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from layerscope.report.attribution import NOTICE
from layerscope.report.console import laid_out, printable
from layerscope.report.figure_style import percent
from layerscope.report.sample_means import FEW_UNITS
from layerscope.report.sentences import short, significant
from layerscope.report.token_sentences import cls_heading, norm_in_words, similarity_number
from layerscope.report.token_statistics import CHANGE, Estimate, TokenAnalysis, ViewStatistics

WIDTH = 100
"""Columns of a terminal that the table keeps within."""

_NAME, _VIEW = 26, 16
"""Characters of a layer's and of a view's name."""

_SHORT = {"reconstruction": "recon"}


@dataclass(frozen=True)
class _Column:
    heading: str
    cells: list[str]
    keep: int
    """What is left out first where the table is too wide: the largest number."""

    @property
    def width(self) -> int:
        return 2 + max(map(len, [self.heading, *self.cells]))


def token_table(analysis: TokenAnalysis) -> str:
    """Layer by layer the means over images of the first view, and the token change of each view with its layers.

    Columns without a value are left out; so are those that would make the table wider than ``WIDTH``, which are named
    below.
    """
    if not analysis.n_images or not analysis.views:
        return "\n".join(["No image was measured.", NOTICE])
    first = analysis.views[0]
    columns = [column for column in _columns(analysis, first) if any(column.cells)]
    names = [printable(name, _NAME) for name in first.layer]
    room = WIDTH - max(map(len, ["layer", *names]))
    kept = list(columns)
    while len(kept) > 1 and sum(column.width for column in kept) > room:
        kept.remove(max(kept, key=lambda column: column.keep))
    rows = [["layer", *(column.heading for column in kept)]]
    rows += [[name, *(column.cells[row] for column in kept)] for row, name in enumerate(names)]
    text = laid_out(rows, numeric=set(range(1, len(rows[0]))), last=0)
    notes = [line for note in _notes(analysis, columns, kept) for line in textwrap.wrap(note, WIDTH)]
    return "\n".join([text, *notes, NOTICE])


def _columns(analysis: TokenAnalysis, view: ViewStatistics) -> list[_Column]:
    def of(figure: str, text: Callable[[float], str], view: ViewStatistics = view) -> list[str]:
        return [_told(view.at(figure, layer), text) for layer in range(len(view.layer))]

    def similarity(value: float) -> str:
        return similarity_number(analysis, value)

    layers = range(len(view.layer))
    interval = [_interval(view.at("neighbour_similarity", layer), similarity) for layer in layers]
    drop = of("border_drop", similarity)
    shifted = of("shifted_border_drop", similarity)
    columns = [
        _Column("neighbours", of("neighbour_similarity", similarity), 0),
        _Column(f"{percent(analysis.settings.level)} CI", interval, 1),
        _Column(cls_heading(view), of("cls_similarity", similarity), 1),
        *(_Column(name, of(f"{name}_similarity", similarity), 1) for name in ("seed", "box", "text")),
        _Column("rank", of("effective_rank", lambda value: short(value, 1)), 2),
        _Column("norm", of("norm_median", significant), 2),
        _Column("max norm", of("norm_max", significant), 4),
        _Column("high", of("high_norm_share", lambda value: f"{100 * value:.1f} %"), 3),
        _Column("border", [f"{a} ({b})" if b else a for a, b in zip(drop, shifted)], 1),
    ]
    later = [later for later in (*analysis.compared, *analysis.controls) if later.same_layers]
    for place, later_view in enumerate(later):
        change = of(CHANGE, lambda value: significant(value, 2), later_view)
        name = _SHORT.get(later_view.view) or printable(later_view.view, _VIEW)
        columns.append(_Column(f"Δ {name}", change, 1 if place < 2 else 10 + place))
    return columns


def _told(one: Estimate, text: Callable[[float], str]) -> str:
    return text(one.value) if one.known else ""


def _interval(one: Estimate, text: Callable[[float], str]) -> str:
    return f"[{text(one.lo)}, {text(one.hi)}]" if math.isfinite(one.lo) else ""


def _notes(analysis: TokenAnalysis, columns: Sequence[_Column], kept: Sequence[_Column]) -> list[str]:
    n = analysis.n_images
    patients = "" if analysis.group is None else f" of {analysis.n_units} patient{'s' * (analysis.n_units != 1)}"
    metric = analysis.similarity_metric.replace("_", " ")
    shown = [column.heading for column in kept]
    told = {
        "rank": "rank: effective rank",
        "norm": "norm: median",
        "high": "high: share of high-norm patches",
    }
    words = "".join(f"; {text}" for heading, text in told.items() if heading in shown)
    notes = [
        f"Means over {n} {'image' if n == 1 else 'images'}{patients}; tokens {norm_in_words(analysis)}.",
        f"Similarities: {metric}{words}.",
    ]
    if len(analysis.views) > 1:
        notes.append("All but Δ are figures of the first view, the image; those of the others are in aggregate.csv.")
    if "border" in shown:
        notes.append("Border: drop of the similarity at the mask's border, in brackets at that of shifted masks.")
    if any(heading.startswith("Δ") for heading in shown):
        notes.append("Δ: mean change of a token, 1 − cosine with the same token of the image.")
    if left_out := [column.heading for column in columns if column not in kept]:
        notes.append(f"Too wide for this table, see aggregate.csv: {', '.join(left_out)}.")
    if others := [one.view for one in analysis.views[1:] if not one.same_layers]:
        notes.append(f"Not in this table, since the layers are others: {', '.join(others)}. See aggregate.csv.")
    if analysis.n_units < 2:
        notes.append(f"One {analysis.unit}: no intervals.")
    elif analysis.n_units < FEW_UNITS:
        notes.append(f"Fewer than {FEW_UNITS} {analysis.unit}s: intervals are rough.")
    if analysis.scores.skipped:
        count = len(analysis.scores.skipped)
        unit = "image was" if count == 1 else "images were"
        notes.append(f"{count} {unit} skipped: summary.json (not_measured) says which and why.")
    return notes
