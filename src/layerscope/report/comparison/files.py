"""The files of a comparison: tables, JSON, text and figures, and the summary that completes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerscope.artifacts import COMPARISON_COLUMNS, PAIRWISE_COLUMNS, SCHEMA_VERSION, Stage, package_versions
from layerscope.artifacts.headline import Headline
from layerscope.artifacts.run_directory import SUMMARY
from layerscope.report.comparison.cells import differences, main_metric, number, own, ranked
from layerscope.report.comparison.document import comparison_document
from layerscope.report.comparison.figures import comparison_figures
from layerscope.report.comparison.reading import reading
from layerscope.report.comparison.result import Comparison
from layerscope.report.comparison.sources import Sources
from layerscope.report.figure_style import png


def write_comparison(comparison: Comparison, sources: Sources, stage: Stage) -> None:
    """comparison.csv, pairwise.csv, comparison.json, comparison.md, the figures and summary.json.

    Of a forced comparison every text and figure says so, as the rows' flags do.
    """
    figures, not_drawn = comparison_figures(comparison)
    not_measured = [*map(dict, comparison.not_measured), *not_drawn]
    for name, figure in figures.items():
        stage.write_bytes(name, png(figure))
    stage.write_csv("comparison.csv", comparison.figures, COMPARISON_COLUMNS)
    stage.write_csv("pairwise.csv", comparison.pairwise, PAIRWISE_COLUMNS)
    content = {"schema_version": SCHEMA_VERSION, "forced": bool(comparison.mismatches), **vars(comparison)}
    stage.write_json("comparison.json", content)
    stage.write_text("comparison.md", comparison_document(comparison, sources, list(figures), not_measured))
    stage.write_json(SUMMARY, _summary(comparison, sources, not_measured))


def headline(comparison: Comparison) -> Headline:
    """The one figure to remember: the largest difference to a named baseline, else the main figure of the best."""
    found = differences(comparison) if comparison.baseline is not None else []
    if found:
        one = max(found, key=lambda entry: abs(entry.value))
        figure = f"macro AUROC of {one.candidate} less that of {one.other}"
        return Headline(figure, one.value, one.sim_lo, one.sim_hi)
    best = next(iter(ranked(comparison)), None)
    row = None if best is None else own(comparison, best, main_metric(comparison))
    what = "change of macro AUROC" if comparison.kind == "bottleneck" else "macro AUROC"
    figure = what if best is None else f"{what} of {best}"
    return Headline(figure, number(row), number(row, "ci_lo"), number(row, "ci_hi"))


def _summary(comparison: Comparison, sources: Sources, not_measured: Sequence[dict[str, str]]) -> dict[str, Any]:
    sentences = reading(comparison)
    return {
        "task": "comparison",
        "kind": comparison.kind,
        "candidates": {name: list(sources.directories.get(name, ())) for name in comparison.candidates},
        "baseline": comparison.baseline,
        "forced": list(comparison.mismatches),
        "headline": headline(comparison),
        "sentences": sentences,
        "sentence": " ".join(sentences),
        "counts": {
            "images": comparison.n_samples,
            "groups": comparison.n_groups,
            "labels": len(comparison.labels),
            "labels_left_out": len(comparison.left_out),
        },
        "settings": {"margin": comparison.margin, "level": comparison.level},
        "not_measured": list(not_measured),
        "teacher_hash": sources.teacher,
        "data_hash": sources.data_hash,
        "split": sources.split,
        "versions": package_versions(),
    }
