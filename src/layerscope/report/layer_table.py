"""The most different layers as a table of plain text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from layerscope.artifacts.layer_scores import DIFFERENCES, LOCALISATION, POINTS
from layerscope.report.attribution import NOTICE
from layerscope.report.console import laid_out, printable
from layerscope.report.figure_style import percent
from layerscope.report.layer_cka import few_groups
from layerscope.report.layer_effects import RANKED_METRICS, LayerAnalysis, Method, Statistic, watched
from layerscope.report.noise_floor import floor_relative_l2, floor_words
from layerscope.report.sample_means import FEW_UNITS
from layerscope.report.sentences import short, significant

_HEADINGS = {
    "relative_l2": "relative L2",
    "cosine_dissimilarity": "1 − cosine",
    "sqnr_db": "SQNR dB",
    "rms": "RMS",
    "l2": "L2",
    "linear_cka": "CKA",
}
_LEFT_OUT: dict[Method, tuple[str, ...]] = {"l2": ("cosine_dissimilarity",), "cosine": ("l2", "rms"), "both": ()}
_BESIDE_FLOOR: tuple[str, Statistic] = ("relative_l2", "mean")
_DECIBELS = 1
_NAME = 44
"""Decimals of a figure in dB; characters of a layer's name, which users copy into patterns."""


def layer_table(analysis: LayerAnalysis, top: int = 5, method: Method = "both") -> str:
    """The layers among the first ``top`` by the effect or by any metric, in order of computation; points below.

    A rank of 1 to ``top`` stands in brackets behind the value that earns it. Beside relative L2 stands the mean of
    the noise floor. ``method`` "l2" leaves out the cosine, "cosine" L2 and RMS; what layers are ranked by is shown with
    either.
    """
    scores = analysis.scores
    effect = analysis.ranking.statistic == "effect"
    columns: list[tuple[str, Statistic]] = [("relative_l2", "effect")] if effect else []
    columns += [(metric, "mean") for metric in _HEADINGS if metric in RANKED_METRICS]
    left_out = set(_LEFT_OUT[method]) - {analysis.ranking.metric}
    columns = [column for column in columns if column[0] not in left_out]
    # A column without a single value, such as CKA of one pair, tells nothing.
    columns = [
        column for column in columns if any(np.isfinite(_value(analysis, row, *column)) for row in _all(analysis))
    ]
    ranks = {column: {row: place + 1 for place, row in enumerate(analysis.order(*column)[:top])} for column in columns}
    shown = sorted({row for places in ranks.values() for row in places})
    anchors = [row for row in _all(analysis) if scores.layer[row] in POINTS]
    floor = floor_relative_l2(scores)
    rows = [["layer"]]
    for metric, statistic in columns:
        rows[0].append("effect" if statistic == "effect" else _HEADINGS[metric])
        rows[0] += [f"{percent(analysis.settings.level)} CI"] if statistic == "effect" else []
        rows[0] += ["floor"] if analysis.has_floor and (metric, statistic) == _BESIDE_FLOOR else []
    rows[0] += ["AUROC (shifted)"] if analysis.localisation.measured else []
    for row in [*shown, *anchors]:
        line = [printable(scores.layer[row], _NAME)]
        for column in columns:
            line.append(_ranked(_number(_value(analysis, row, *column), *column), ranks[column].get(row), top))
            line += [_interval(analysis, row)] if column[1] == "effect" else []
            line += [_number(floor[row], *column)] if analysis.has_floor and column == _BESIDE_FLOOR else []
        rows.append(line + ([_auroc(analysis, row)] if analysis.localisation.measured else []))
    text = [
        laid_out(rows, numeric=set(range(1, len(rows[0]))), last=len(anchors)),
        *_notes(analysis, top, method, shown),
    ]
    return "\n".join([*text, NOTICE])


def _all(analysis: LayerAnalysis) -> Sequence[int]:
    return range(len(analysis.scores.layer))


def _value(analysis: LayerAnalysis, row: int, metric: str, statistic: Statistic) -> float:
    if metric == "linear_cka":
        return float(analysis.cka.value[row])
    table = analysis.differences.effect if statistic == "effect" else analysis.differences.pairs.mean
    return float(table[row, DIFFERENCES.index(metric)])


def _number(value: float, metric: str, statistic: Statistic) -> str:
    if not math.isfinite(value):
        return ""
    if metric == "linear_cka":
        return short(value)
    if statistic == "effect":
        return short(value, 2)
    return short(value, _DECIBELS) if metric == "sqnr_db" else significant(value)


def _ranked(text: str, rank: int | None, top: int) -> str:
    """Brackets take their room in every cell, so that numbers stand below each other."""
    width = len(f" ({top})")
    return f"{text} ({rank})".rjust(len(text) + width) if rank else text + " " * width


def _interval(analysis: LayerAnalysis, row: int) -> str:
    table, column = analysis.differences, DIFFERENCES.index("relative_l2")
    lo, hi = float(table.effect_lo[row, column]), float(table.effect_hi[row, column])
    return f"[{short(lo, 2)}, {short(hi, 2)}]" if math.isfinite(lo) else ""


def _auroc(analysis: LayerAnalysis, row: int) -> str:
    """Mean pixel AUROC of the lesion mask, and of shifted masks in brackets."""
    column = LOCALISATION.index("auroc")
    mask, shifted = (means.mean[row, column] for means in (analysis.localisation.mask, analysis.localisation.shifted))
    return f"{short(mask)} ({short(shifted)})" if math.isfinite(mask) else ""


def _notes(analysis: LayerAnalysis, top: int, method: Method, shown: Sequence[int]) -> list[str]:
    ranking = analysis.ranking
    scores = analysis.scores
    unit = "pair" if analysis.n_pairs == 1 else "pairs"
    patients = "" if scores.group is None else f" of {analysis.n_units} patients"
    notes = [
        f"Means over {analysis.n_pairs} {unit}{patients}; ({1}) to ({top}): the most different layers by a column."
    ]
    if more := len(watched(scores.layer)) - len(shown):
        notes.append(f"{more} more watched {'layer is' if more == 1 else 'layers are'} not among these: see pairs.csv.")
    if 1 < analysis.n_units < FEW_UNITS:
        unit = "pairs" if scores.group is None else "patients"
        notes.append(f"Fewer than {FEW_UNITS} {unit}: intervals are rough.")
    if scores.skipped:
        unit = "pair was" if len(scores.skipped) == 1 else "pairs were"
        notes.append(f"{len(scores.skipped)} {unit} skipped: summary.json (not_measured) says which and why.")
    if analysis.localisation.measured:
        notes.append("AUROC: is the difference in the lesion mask? In brackets the same for shifted masks.")
    if ranking.statistic == "effect":
        floor = floor_words(scores.floor_kind)
        notes.append(f"Effect: of relative L2 over {len(scores.floor)} floor pairs ({floor}); layers are ranked by it.")
    elif ranking.fallback:
        notes.append(f"Layers are ranked by the mean of {ranking.metric}, since {ranking.fallback}.")
    else:
        notes.append(f"Layers are ranked by the mean of {ranking.metric}.")
    if analysis.has_floor and ranking.statistic != "effect":
        unit = "floor pair" if len(scores.floor) == 1 else "floor pairs"
        notes.append(f"Floor: mean relative L2 of {len(scores.floor)} {unit} ({floor_words(scores.floor_kind)}).")
    if method != "cosine":
        notes.append("L2 grows with a layer's size and RMS with its scale: neither compares layers.")
    if np.isfinite(analysis.cka.value).any() and not analysis.cka.ranks:
        notes.append(f"CKA ranks no layers: {few_groups(analysis.cka)}.")
    return notes
