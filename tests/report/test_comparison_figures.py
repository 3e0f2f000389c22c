"""Figures of comparisons: what they show and leave out, with odd names and missing values."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from synthetic_comparison import TEN, bottlenecks, classifiers

from layerscope.report.comparison.figures import (
    CURVES,
    DIFFERENCES,
    LABELS,
    OVERVIEW,
    PARETO,
    comparison_figures,
    curves_figure,
    differences_figure,
    pareto_figure,
)
from layerscope.report.comparison.looks import looks
from layerscope.report.comparison.pareto import dodged, on_front, pareto_front
from layerscope.report.comparison.placing import spread
from layerscope.report.figure_style import png

BOTH = {"a$_1": (-0.03, 4096.0), "$b$": (-0.01, 8192.0), "c <i>": (-0.02, 8192.0)}
MISMATCHES = ["The split is test in a and val in b."]


def texts(figure: Figure) -> str:
    """Everything written anywhere in a figure."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


def test_the_pareto_front_is_what_no_other_point_dominates() -> None:
    generator = np.random.default_rng(0)
    for n in (1, 2, 5, 12):
        for _ in range(20):
            cost, value = generator.integers(0, 4, n).astype(float), generator.integers(0, 4, n).astype(float)
            value[generator.random(n) < 0.15] = np.nan
            expected = [
                np.isfinite(v)
                and not any(
                    c2 <= c and v2 >= v and (c2 < c or v2 > v) for c2, v2 in zip(cost, value) if np.isfinite(v2)
                )
                for c, v in zip(cost, value)
            ]
            assert pareto_front(list(cost), list(value)).tolist() == expected
    assert pareto_front([], []).tolist() == []


def test_candidates_on_the_front_and_without_a_size() -> None:
    assert on_front(bottlenecks()) == ["feat_4ch", "feat_8ch", "feat_16ch"]
    unknown = {**BOTH, "no size": (0.0, np.nan)}
    assert on_front(bottlenecks(unknown)) == ["a$_1", "$b$"]


def test_equal_sizes_stand_apart_around_their_place() -> None:
    moved = dodged(np.array([4.0, 8.0, 8.0, 8.0]))
    assert moved[0] == 4
    assert moved[2] == 8
    assert len(set(moved)) == 4
    assert np.prod(moved[1:]) == pytest.approx(8.0**3)


def test_names_beside_an_axis_keep_their_order_and_distance() -> None:
    for values in ([0.0, 0.0, 0.0], [0.1, 0.2, 5.0, 9.9, 10.0], [9.9, 10.0, 10.0]):
        places = np.array(spread(values, 1.0, 0.0, 10.0))
        assert (np.diff(places) >= 1 - 1e-9).all()
        assert places.min() >= 0
        assert places.max() <= 10
    assert spread([1.0, 4.0], 1.0, 0.0, 10.0) == [1.0, 4.0]


def test_every_look_of_ten_is_told_by_marker_and_by_colour_with_dashes() -> None:
    found = list(looks(list(TEN)).values())
    assert len({look.marker for look in found}) == len({(look.colour, str(look.dashes)) for look in found}) == 10


def test_all_figures_of_odd_names_say_that_the_comparison_was_forced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures, absent = comparison_figures(bottlenecks(BOTH, mismatches=MISMATCHES))
        for figure in figures.values():
            assert len(png(figure)) > 10_000
    assert set(figures) == {OVERVIEW, PARETO, CURVES, LABELS, DIFFERENCES}
    assert not absent
    for figure in figures.values():
        said = " ".join(texts(figure).split())
        assert "not comparable: forced (The split is test in a and val in b)" in said
        assert "c <i>" in said
        assert r"\$b\$" in said
    said = " ".join(texts(figures[LABELS]).split())
    assert "bold: 95 % interval excludes 0; grey: in no average; hatched: undefined" in said


def test_names_of_ten_points_cover_neither_each_other_nor_points() -> None:
    figure = pareto_figure(bottlenecks())
    axes = figure.axes[0]
    figure.draw_without_rendering()
    names = [text for text in axes.texts if not isinstance(text, Annotation)]
    boxes = [text.get_window_extent() for text in names]
    assert len(boxes) == 10
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[k + 1 :])
    marked = [line for line in axes.lines if line.get_marker() != "None"]
    points = [axes.transData.transform(line.get_xydata()[0]) for line in marked if len(line.get_xydata()) == 1]
    assert len(points) == 10
    ring = next(line for line in marked if line.get_markerfacecolor() == "none")
    assert ring.get_ydata() == pytest.approx([TEN[name][0] for name in on_front(bottlenecks())])
    assert not any(box.contains(*point) for box, point in product(boxes, points))
    controls = [text.get_text() for text in axes.texts if isinstance(text, Annotation)]
    assert {"down2", "down4", "beyond the axis: down8"} <= set(controls)
    assert "not comparable" not in texts(figure)


def test_steps_that_nearly_agree_stand_close_together_on_an_axis_with_different_ticks() -> None:
    figure = curves_figure(bottlenecks(BOTH, steps=(1.5,)))
    noisy = figure.axes[1]
    figure.draw_without_rendering()
    left, right = noisy.get_xlim()
    assert left - right >= 1
    marked = [line.get_xydata()[0] for line in noisy.lines if line.get_marker() != "None"]
    # The steps are 1.5, 1.55 and 1.6.
    assert [x for x, _ in marked] == pytest.approx([1.5, 1.55, 1.6], abs=0.03)
    ticks = [label.get_text() for label in noisy.get_xticklabels()]
    assert len(set(ticks)) == len(ticks) > 2


def test_candidates_stand_beside_each_other_at_a_step_that_they_share() -> None:
    same = bottlenecks(BOTH)
    rows = [
        {**row, "log_snr_eff": float(np.round(row["log_snr_eff"]))} for row in same.figures if row["metric"] == "auroc"
    ]
    noisy = curves_figure(replace(same, figures=rows)).axes[1]
    first = [line.get_xydata()[0, 0] for line in noisy.lines if line.get_marker() != "None"]
    assert len(set(first)) == 3
    assert first == pytest.approx([6.0] * 3, abs=0.02 * 8)


def test_cells_of_labels_are_bold_where_certain_and_grey_where_unreliable() -> None:
    comparison = bottlenecks({"a": (-0.02, 1.0), "b": (0.01, 2.0)})
    flagged = [
        {**row, "flag": "only 3 positives: intervals are not reliable"} if row["label"] == "ma" else row
        for row in comparison.figures
    ]
    figures, _ = comparison_figures(replace(comparison, figures=flagged))
    cells = {
        (round(text.get_position()[0]), round(text.get_position()[1])): text for text in figures[LABELS].axes[0].texts
    }
    # The interval is ± .012 around -.038, -.029, -.020 and -.011, the average's ± .006 around -.020 and .010.
    weights = [cells[0, label].get_fontweight() for label in range(6)]
    assert weights == ["normal", "bold", "bold", "normal", "normal", "bold"]
    assert cells[0, 0].get_color() == cells[0, 4].get_color() != cells[0, 3].get_color()
    assert cells[1, 5].get_text() == "+.010"
    assert "grey: in no average or interval not reliable" in " ".join(texts(figures[LABELS]).split())
    # A classifier's difference to the baseline is certain by the simultaneous interval, which only the average has.
    against = comparison_figures(classifiers())[0][LABELS].axes[0].texts
    assert [text.get_text() for text in against if text.get_fontweight() == "bold"] == ["−.025", "−.050"]


def test_figures_without_data_are_left_out_with_the_reason() -> None:
    one_size = {name: (loss, 4096.0) for name, (loss, _) in BOTH.items()}
    figures, absent = comparison_figures(bottlenecks(one_size, steps=(), labels=()))
    assert set(figures) == {OVERVIEW, LABELS, DIFFERENCES}
    assert [row["what"] for row in absent] == [PARETO, CURVES]
    assert "one size" in absent[0]["reason"]
    assert "noise" in absent[1]["reason"]
    assert len(figures[OVERVIEW].axes) == 1
    unknown = dict.fromkeys(BOTH, (np.nan, 4096.0))
    figures, absent = comparison_figures(bottlenecks(unknown))
    assert not figures
    assert {row["what"] for row in absent} == {OVERVIEW, PARETO, CURVES, LABELS, DIFFERENCES}


def test_the_best_is_the_reference_without_a_baseline() -> None:
    best, named = (texts(differences_figure(bottlenecks(BOTH, baseline=name))) for name in (None, "a$_1"))
    assert r"macro AUROC less that of \$b\$ (the best)" in best
    assert "worse" in best
    assert r"macro AUROC less that of a\$_1" in named
    assert "(the best)" not in named
    assert "better" in named


def test_classifiers_are_held_against_the_baseline_or_stand_alone() -> None:
    figures, absent = comparison_figures(classifiers())
    assert set(figures) == {OVERVIEW, LABELS, DIFFERENCES}
    assert not absent
    assert len(figures[OVERVIEW].axes) == 3
    assert "ΔAUROC to the baseline" in texts(figures[LABELS])
    assert "−.025" in texts(figures[LABELS])
    alone, _ = comparison_figures(classifiers(None))
    assert len(alone[OVERVIEW].axes) == 2
    assert "ΔAUROC" not in texts(alone[LABELS])
    assert ".905" in texts(alone[LABELS])
