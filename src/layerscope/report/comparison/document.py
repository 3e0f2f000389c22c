"""comparison.md: what was compared, what that shows, and the tables behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layerscope.report.attribution import NOTICE
from layerscope.report.comparison.reading import reading
from layerscope.report.comparison.result import Comparison
from layerscope.report.comparison.sources import Sources
from layerscope.report.comparison.table import Table, label_table, main_table, pair_tables, seed_table
from layerscope.report.figure_style import percent
from layerscope.report.markdown import escaped, markdown_table
from layerscope.report.sentences import short

_HASH = 12
"""Digits of a hash in a text; the whole one is in summary.json."""


_PAIRS = (
    "Candidate minus the other. Better or worse is one whose simultaneous interval leaves 0 out and whose corrected p "
    "is below its level; pairwise.csv holds the differences of all other figures too."
)


def comparison_document(
    comparison: Comparison, sources: Sources, figures: Sequence[str], not_measured: Sequence[Mapping[str, str]]
) -> str:
    """Markdown. figures: names of the figures' files, linked relatively. Whatever comes from files and names, labels
    and candidates included, is escaped."""
    forced = " (not comparable: forced)" if comparison.mismatches else ""
    of = "autoencoders" if comparison.kind == "bottleneck" else "classifiers"
    parts = [f"# Comparison of {len(comparison.candidates)} {of}{forced}"]
    if comparison.mismatches:
        parts += ["**Not comparable: forced.** What differs between the runs:", _items(comparison.mismatches)]
    parts += [_what(comparison, sources), "## Reading", _items(reading(comparison))]
    parts += _pictures([name for name in figures if "/" not in name])
    parts += ["## Candidates", _table(main_table(comparison)), _main_note(comparison)]
    pairs, others = pair_tables(comparison)
    if pairs[1] or others[1]:
        parts.append("## Differences")
        parts += [_table(pairs)] * bool(pairs[1])
        if others[1]:
            parts += [f"### Pairs without the baseline {escaped(comparison.baseline or '')}", _table(others)]
        parts.append(_PAIRS)
    if comparison.labels:
        parts += ["## Labels", _table(label_table(comparison)), "Intervals are those of each label by itself."]
    if comparison.left_out:
        left = [f"{comparison.display.get(name, name)}: {why}" for name, why in comparison.left_out.items()]
        parts += ["In no average:", _items(left)]
    seeds = seed_table(comparison)
    if seeds is not None:
        parts += ["## Training seeds", _table(seeds)]
    if rest := [name for name in figures if "/" in name]:
        parts += ["## Figures", *_pictures(rest)]
    parts += ["## What the intervals cover", coverage(comparison)]
    if not_measured:
        parts += ["## Not measured", _items([f"{row['what']}: {row['reason']}" for row in not_measured])]
    parts.append(NOTICE)
    return "\n\n".join(parts) + "\n"


def coverage(comparison: Comparison) -> str:
    """What an interval of this comparison says, and what it does not."""
    images = f"the choice of {comparison.n_samples} test images"
    clusters = (
        "taken as independent, since the data names no patients"
        if comparison.n_groups is None
        else f"clustered by {comparison.n_groups} patients (groups)"
    )
    noise = " and the noise draws" if comparison.kind == "bottleneck" else ""
    return (
        f"Intervals are {percent(comparison.level)} and cover {images}, {clusters}{noise}. Training seeds are covered "
        "only of candidates with several, by two of them less often than the level says; of one with a single seed, "
        "another seed may give another figure. "
        "Simultaneous intervals hold for their whole family at once."
    )


def _what(comparison: Comparison, sources: Sources) -> str:
    patients = "no patients named" if comparison.n_groups is None else f"{comparison.n_groups} patients"
    split = f"split {sources.split}, " if sources.split else ""
    lines = [f"Data: {split}{comparison.n_samples} images, {patients}; hash {_short(sources.data_hash)}"]
    if comparison.kind == "bottleneck":
        lines.append(
            f"Teacher: weights {_short(sources.teacher)}; macro AUROC on real images {short(comparison.auroc_real)}"
        )
    lines.append(f"Margin: a difference of {short(comparison.margin)} in macro AUROC would matter")
    lines.append(f"Baseline: {comparison.baseline if comparison.baseline is not None else 'none'}")
    for name in comparison.candidates:
        lines.append(f"{name}: {', '.join(sources.directories.get(name, ()))}")
    return _items(lines)


def _main_note(comparison: Comparison) -> str:
    place = "at recon, without noise" if comparison.kind == "bottleneck" else "on real images"
    return (
        f"Averages over labels (macro) {place}; in square brackets {percent(comparison.level)} intervals, in round "
        "brackets the rank (1 is best). comparison.csv holds every figure with all digits."
    )


def _pictures(names: Sequence[str]) -> list[str]:
    return [f"![{escaped(name)}]({name})" for name in names]


def _items(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _table(table: Table) -> str:
    return markdown_table(*table)


def _short(value: str | None) -> str:
    return "not known" if value is None else value[:_HASH]
