"""What the terminal says of a comparison: a table of candidates, and the reading below it."""

from __future__ import annotations

import textwrap

from layerscope.report.attribution import NOTICE
from layerscope.report.comparison.cells import difference, number, own
from layerscope.report.comparison.reading import reading
from layerscope.report.comparison.result import Comparison
from layerscope.report.comparison.table import COLUMNS, change, interval, rank, shown_columns
from layerscope.report.console import laid_out, printable
from layerscope.report.figure_style import percent
from layerscope.report.markdown import without_controls
from layerscope.report.sentences import short

_WIDTH = 100
_NAME = 24

_BESIDE = {
    "delta_ap": "ΔmAP",
    "ap": "mAP",
    "flip_rate": "flips %",
    "collapse_log_snr_eff": "half lost",
    "latent_elements": "latent",
}
"""Figures beside the main one, with headings that leave a line within its width."""


def comparison_table(comparison: Comparison) -> str:
    """Candidates with macro AUROC, its interval and rank, and what else fits into 100 characters.

    Names are whole if that leaves room for them; otherwise their middle is left out, since both ends tell them apart.
    """
    first = COLUMNS[comparison.kind][0]
    others = [column for column in shown_columns(comparison) if column.metric in _BESIDE]
    against = comparison.baseline if comparison.kind == "classifier" else None
    header = [first.heading, "interval", "rank", *(_BESIDE[column.metric] for column in others)]
    rows = [header + ["to baseline", "interval"] * (against is not None)]
    for name in comparison.candidates:
        row = own(comparison, name, first.metric)
        cells = [first.text(number(row)), interval(row, first.text), rank(row)]
        cells += [column.text(number(own(comparison, name, column.metric))) for column in others]
        if against is not None:
            one = difference(comparison, name, against)
            cells += ["", ""] if one is None else [change(one.value), f"[{change(one.sim_lo)}, {change(one.sim_hi)}]"]
        rows.append(cells)
    # Two spaces stand before each column.
    room = _WIDTH - sum(2 + max(map(len, column)) for column in zip(*rows))
    names = ["candidate", *(printable(name, max(room, _NAME)) for name in comparison.candidates)]
    numeric = {1, *range(3, 5 + len(others))}
    return laid_out([[name, *cells] for name, cells in zip(names, rows)], numeric=numeric, last=0)


def comparison_text(comparison: Comparison) -> str:
    """Everything that is printed: caption, table, reading, what was not measured."""
    lines = [_caption(comparison), comparison_table(comparison), *(f"- {line}" for line in reading(comparison))]
    lines += [f"Not measured: {row['what']}: {row['reason']}" for row in comparison.not_measured]
    lines.append(NOTICE)
    return "\n".join(_wrapped(line) for line in lines)


def _caption(comparison: Comparison) -> str:
    patients = "images independent" if comparison.n_groups is None else f"{comparison.n_groups} patients"
    forced = "NOT COMPARABLE (forced); " * bool(comparison.mismatches)
    return (
        f"{forced}{comparison.n_samples} images, {patients}; intervals {percent(comparison.level)}; "
        f"margin {short(comparison.margin)}"
        + (f"; baseline {printable(comparison.baseline, _NAME)}" if comparison.baseline is not None else "")
    )


def _wrapped(text: str) -> str:
    """Lines of a table as they are; a sentence in lines of at most 100 characters."""
    if "\n" in text:
        return text
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(without_controls(text), _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
