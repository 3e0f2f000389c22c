"""The tables of a comparison as text: candidates, pairs, labels and training seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from layerscope.functional.contrasts import CANNOT_BE_TOLD
from layerscope.report.comparison.cells import (
    label_value,
    main_condition,
    main_metric,
    number,
    own,
    own_reason,
    places,
    seed_rows,
)
from layerscope.report.comparison.result import Comparison
from layerscope.report.rows import Row
from layerscope.report.sentences import MINUS, short

Table = tuple[list[str], list[list[str]]]
"""Header and rows, of plain text."""


class Column(NamedTuple):
    """A figure of the main table and how its numbers are written."""

    metric: str
    heading: str
    text: Callable[[float], str]


def change(value: float) -> str:
    """A signed difference."""
    return bounded(value, lambda number: short(number, sign=True))


def bounded(value: float, text: Callable[[float], str]) -> str:
    """Numbers of which an end may be infinite: lost without noise, or at none that was measured."""
    return f"{MINUS if value < 0 else ''}∞" if math.isinf(value) else text(value)


def _level(value: float) -> str:
    return bounded(value, lambda number: short(number, 1))


def _decibels(value: float) -> str:
    return bounded(value, lambda number: short(number, 1))


def _share(value: float) -> str:
    return short(100 * value, 1)


def _count(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "n/a"


def _milliseconds(seconds: Sequence[float]) -> Callable[[float], str]:
    """How times of one column are written: with the decimals that give the shortest two telling digits, at most 3."""
    known = [1000 * value for value in seconds if math.isfinite(value) and value > 0]
    digits = min(max(1 - math.floor(math.log10(min(known))), 0), 3) if known else 0
    return lambda value: short(1000 * value, digits)


COLUMNS: dict[str, tuple[Column, ...]] = {
    "bottleneck": (
        Column("delta_auroc", "ΔAUROC", change),
        Column("delta_ap", "ΔmAP", change),
        Column("flip_rate", "flips %", _share),
        Column("collapse_log_snr_eff", "half lost at effective log-SNR", _level),
        Column("retained_area", "area kept under noise", short),
        Column("psnr_db", "PSNR dB", _decibels),
        Column("ssim", "SSIM", short),
        Column("lpips", "LPIPS", short),
        Column("latent_elements", "latent elements", _count),
        Column("latent_bits", "latent bits", _count),
        Column("rate_bits", "rate bits", _count),
        Column("encode_seconds", "encode ms", _milliseconds(())),
        Column("decode_seconds", "decode ms", _milliseconds(())),
    ),
    "classifier": (Column("auroc", "AUROC", short), Column("ap", "mAP", short)),
}


def shown_columns(comparison: Comparison) -> list[Column]:
    """Columns of which at least one candidate has a value; times with as many decimals as the shortest needs."""
    columns = []
    for column in COLUMNS[comparison.kind]:
        values = [number(own(comparison, name, column.metric)) for name in comparison.candidates]
        if all(math.isnan(value) for value in values):
            continue
        columns.append(column._replace(text=_milliseconds(values)) if column.metric.endswith("_seconds") else column)
    return columns


def interval(row: Row | None, text: Callable[[float], str]) -> str:
    """``[lo, hi]``; empty where there is none."""
    return _ends(number(row, "ci_lo"), number(row, "ci_hi"), text)


def _ends(lo: float, hi: float, text: Callable[[float], str]) -> str:
    return "" if math.isnan(lo) or math.isnan(hi) else f"[{text(lo)}, {text(hi)}]"


def rank(row: Row | None) -> str:
    """The rank; empty where there is none."""
    place = number(row, "rank")
    return f"{place:.0f}" if math.isfinite(place) else ""


def main_table(comparison: Comparison) -> Table:
    """A row for each candidate: every figure with its interval, and in round brackets its rank."""
    columns = shown_columns(comparison)
    rows = []
    for name in comparison.candidates:
        cells = [name + " (baseline)" * (name == comparison.baseline)]
        for column in columns:
            row = own(comparison, name, column.metric)
            place = rank(row)
            parts = [column.text(number(row)), interval(row, column.text), f"({place})" if place else ""]
            cells.append("" if math.isnan(number(row)) else " ".join(filter(None, parts)))
        rows.append(cells)
    return ["candidate", *(column.heading for column in columns)], rows


_PAIR_HEADINGS = {"auroc": "AUROC", "ap": "mAP"}
"""What differences are listed of; ten candidates have 45 of each."""


def pair_tables(comparison: Comparison) -> tuple[Table, Table]:
    """Differences of macro AUROC and mAP under the main condition, as they are stored, with p after correction.

    The pairs with the baseline, and those without it; where there is no baseline all are among the first. A table in
    which something cannot be told has a column that says why.
    """
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row in comparison.pairwise:
        if row["metric"] in _PAIR_HEADINGS and (row["label"], row["condition"]) in places(comparison):
            without = comparison.baseline is not None and comparison.baseline not in (row["candidate"], row["other"])
            parts[without].append(row)
    first, second = (_pairs(rows) for rows in parts)
    return first, second


def _pairs(found: Sequence[Row]) -> Table:
    rows = []
    with_reasons = any(row["outcome"] == CANNOT_BE_TOLD for row in found)
    for row in found:
        ends = [
            f"[{change(number(row, f'{kind}_lo'))}, {change(number(row, f'{kind}_hi'))}]" for kind in ("ci", "ci_sim")
        ]
        value, p = change(number(row, "difference")), p_text(number(row, "p_adjusted"))
        cells = [row["candidate"], row["other"], _PAIR_HEADINGS[row["metric"]], value, *ends, p, row["outcome"]]
        rows.append([str(cell or "") for cell in cells] + [_reason(row)] * with_reasons)
    header = ["candidate", "less", "figure", "difference", "interval", "simultaneous interval", "p, corrected"]
    return [*header, "outcome", *["reason"] * with_reasons], rows


def _reason(row: Row) -> str:
    """Why an outcome cannot be told, from the row's flag; empty for every other outcome."""
    if row["outcome"] != CANNOT_BE_TOLD:
        return ""
    return own_reason(str(row["flag"] or "")) or "no interval"


def p_text(p: float) -> str:
    """A p value; small ones as a bound."""
    return "< .001" if p < 0.001 else short(p)


def label_table(comparison: Comparison) -> Table:
    """The main figure of every label in every candidate, with intervals; labels in no average say so."""
    metric, text = main_metric(comparison), COLUMNS[comparison.kind][0].text
    condition = main_condition(comparison)
    rows = []
    for label in comparison.labels:
        name = comparison.display.get(label, label) + " (in no average)" * (label in comparison.left_out)
        cells = [name]
        for candidate in comparison.candidates:
            row = comparison.of(candidate, metric, label, condition)
            value = label_value(comparison, candidate, label)
            cells.append("" if math.isnan(value) else f"{text(value)} {interval(row, text)}".strip())
        rows.append(cells)
    return ["label", *comparison.candidates], rows


def seed_table(comparison: Comparison) -> Table | None:
    """The spread between training seeds; None where every candidate has one run."""
    rows: list[list[str]] = []
    for name in comparison.candidates:
        for column in COLUMNS[comparison.kind][:2]:
            seeds = seed_rows(comparison, name, column.metric)
            if seeds:
                row = own(comparison, name, column.metric)
                spread = short(number(row, "seed_sd"))
                single = ", ".join(f"{seed['run']}: {column.text(number(seed))}" for seed in seeds)
                rows.append([name, column.heading, column.text(number(row)), str(len(seeds)), spread, single])
    header = ["candidate", "figure", "mean", "seeds", "standard deviation between seeds", "single runs"]
    return (header, rows) if rows else None
