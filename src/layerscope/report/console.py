"""The verdict as a small table of plain text for the terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from layerscope.report.figure_style import short_name
from layerscope.report.rows import MACRO
from layerscope.report.sentences import short


def verdict_table(summary: Mapping[str, Any]) -> str:
    """Label by label: AUROC on real images, the change on reconstructions with its interval, verdict, collapse.

    summary: ``summary.json`` as read by ``artifacts.read_summary``, or ``BottleneckAnalysis.summary()``. The largest
    loss comes first, the macro average last; notes on verdicts stand below.
    """
    verdict = summary["verdict"]
    overall = verdict["overall"]
    labels = sorted(verdict["per_label"], key=lambda entry: (_missing(entry["delta_auroc"]), entry["delta_auroc"] or 0))
    with_noise = bool(overall["n_timesteps"])
    rows = [["label", "positives", "AUROC real", "ΔAUROC", "interval", "verdict"]]
    for entry in labels:
        rows.append([printable(entry["display"]), str(entry["n_pos"]), *_numbers(entry, entry["auroc_real"])])
    rows.append(["macro average", "", *_numbers(overall, overall["auroc_real"])])
    if with_noise:
        rows[0].append("half lost at log-SNR")
        for row, entry in zip(rows[1:], [*labels, overall]):
            row.append(_collapse(entry))
    notes = [
        f"{printable(entry.get('display', 'macro average'))}: {note}"
        for entry in [*labels, overall]
        if (note := _note(entry))
    ]
    return "\n".join([laid_out(rows, numeric={1, 2, 3}), *notes])


def classifier_table(per_label: Sequence[Mapping[str, Any]], display: Mapping[str, str]) -> str:
    """Label by label: AUROC with its interval, AP and F1 at the global threshold; the macro average last.

    per_label: rows of a classifier's per_label.csv. display: label to the name shown.
    """
    cells = {(str(row["label"]), str(row["metric"])): row for row in per_label}
    rows = [["label", "positives", "AUROC", "interval", "AP", "F1"]]
    for label in [*display, MACRO]:
        auroc = cells[label, "auroc"]
        interval = f"[{_number(auroc['ci_lo'])}, {_number(auroc['ci_hi'])}]"
        name, positives = ("macro average", "") if label == MACRO else (printable(display[label]), str(auroc["n_pos"]))
        values = [_number(cells[label, metric]["value"]) for metric in ("ap", "f1_fixed")]
        rows.append([name, positives, _number(auroc["value"]), interval, *values])
    return laid_out(rows, numeric={1, 2, 4, 5})


def at_chance(per_label: Sequence[Mapping[str, Any]], display: Mapping[str, str]) -> str:
    """The labels that the classifier does not surely recognise, in a line; empty where it recognises every one."""
    rows = [row for row in per_label if row["metric"] == "auroc" and row["label"] in display and row["ci_lo"] <= 0.5]
    if not rows:
        return ""
    names = ", ".join(f"{printable(display[str(row['label'])])} ({_number(row['value'])})" for row in rows)
    return f"Not surely better than chance: {names}. A diagnosis with this teacher can say little about them."


def caption(split: str, images: int, groups: int | None, level: float, margins: tuple[float, float] | None) -> str:
    """What a table is about: split and size, what an interval is, and (macro, label) margins of a verdict.

    >>> caption("test", 350, None, 0.95, (0.02, 0.05))
    'split test, 350 images; intervals 95 %, images independent; margin .050 for a label, .020 for the macro average'
    """
    clustered = "images independent" if groups is None else f"clustered by {groups} patients (groups)"
    text = f"split {split}, {images} images; intervals {100 * level:g} %, {clustered}"
    if margins is None:
        return text
    return f"{text}; margin {_number(margins[1])} for a label, {_number(margins[0])} for the macro average"


def laid_out(rows: Sequence[Sequence[str]], numeric: set[int], last: int = 1) -> str:
    """Header, body and ``last`` rows below it, ruled apart; numeric columns to the right."""
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(_padded(cell, widths[column], column in numeric) for column, cell in enumerate(row)).rstrip()
        for row in rows
    ]
    rule = "─" * max(_width(line) for line in lines)
    below = [rule, *lines[-last:]] if last else []
    return "\n".join([lines[0], rule, *lines[1 : len(lines) - last], *below])


def _numbers(entry: Mapping[str, Any], real: float | None) -> list[str]:
    if _missing(entry["delta_auroc"]):
        return [_number(real), "", "", str(entry["verdict"])]
    interval = f"[{_number(entry['ci_lo'], sign=True)}, {_number(entry['ci_hi'], sign=True)}]"
    word = f"{entry['verdict']}, score shift" if entry.get("score_shift") else str(entry["verdict"])
    return [_number(real), _number(entry["delta_auroc"], sign=True), interval, word]


def _note(entry: Mapping[str, Any]) -> str:
    """Why a verdict is withheld, how many positives would settle it, which labels an average leaves out."""
    needed = entry.get("needed_positives")
    left_out = ", ".join(printable(name) for name in entry.get("labels_left_out", []))
    parts = [
        "no label defined" if _missing(entry["delta_auroc"]) and not entry.get("reason") else entry.get("reason"),
        f"needs about {needed} positives" if needed else "",
        f"left out of the average, too few samples: {left_out}" if left_out else "",
    ]
    return "; ".join(str(part) for part in parts if part)


def _collapse(entry: Mapping[str, Any]) -> str:
    match entry.get("collapse_state"):
        case "collapsed":
            bound = "≥ " * bool(entry["collapse_is_bound"])
            return f"{bound}{_number(entry['collapse_log_snr'], 1)} (t = {entry['collapse_t']:.0f})"
        case "collapsed_at_recon":
            return "without noise"
        case "not_reached":
            return "not reached"
        case _:
            return ""


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    return short(math.nan if value is None else value, digits, sign)


def printable(name: str, length: int = 28) -> str:
    """A name without control characters, which could move a terminal's cursor, and of at most that length."""
    return short_name("".join(char for char in name if unicodedata.category(char)[0] != "C"), length)


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
