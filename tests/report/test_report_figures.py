"""Every figure draws for many and few labels and steps, from fresh rows and from CSV files alike."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from synthetic_scores import classifier_scores, make_scores, replaced

from layerscope.artifacts import LONG_COLUMNS, open_run_directory, read_csv
from layerscope.artifacts.tables import COLLAPSE_COLUMNS
from layerscope.report.bottleneck import AnalysisSettings, BottleneckAnalysis, analyse_bottleneck
from layerscope.report.classifier import analyse_classifier
from layerscope.report.figure_style import png, short_name
from layerscope.report.figures_bottleneck import (
    bottleneck_figures,
    collapse_figure,
    cosine_figure,
    flips_figure,
    forest_figure,
    heat_map_figure,
    t_curve_figure,
)
from layerscope.report.figures_classifier import classifier_figures

SETTINGS = AnalysisSettings(n_bootstrap=50)
ALL_FIGURES = {
    "t_curve.png",
    "label_t_heatmap.png",
    "collapse.png",
    "delta_auroc_forest.png",
    "flips.png",
    "stage_cosines.png",
}


def texts(figure: Figure) -> list[str]:
    """Everything written in a figure."""
    figure.canvas.draw()
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    found += [tick.get_text() for axes in figure.axes for tick in [*axes.get_xticklabels(), *axes.get_yticklabels()]]
    return found


def many_labels() -> Any:
    scores = make_scores(n=120, n_labels=20, n_stages=4)
    names = [f"A finding with a long name, number {k} of $20" if k % 2 else f"L{k}" for k in range(20)]
    target = scores.target.copy()
    target[:, 7] = 0
    return replaced(scores, label_display=np.array(names), target=target)


CASES: dict[str, Any] = {
    "three labels": make_scores,
    "twenty labels, long names, one undefined": many_labels,
    "two labels, one step": lambda: make_scores(n=80, n_labels=2, steps=((330, 0.2),), controls=False),
    "pure noise as the last step": lambda: make_scores(n=80, steps=((14, 4.3), (500, 0.0), (1000, -np.inf))),
    "one label": lambda: make_scores(n=80, n_labels=1),
}


@pytest.mark.parametrize("case", CASES)
def test_all_figures_draw_without_a_warning(case: str) -> None:
    analysis = analyse_bottleneck(CASES[case](), SETTINGS)
    figures = bottleneck_figures(analysis, 0.02, 0.05)
    assert set(figures) == ALL_FIGURES
    for name, figure in figures.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = png(figure)
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        assert pixels.std() > 5, name
        # Nothing is cut off: the outermost pixels are empty.
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (border > 250).mean() > 0.99, name


def test_figures_without_data_are_left_out() -> None:
    scores = make_scores(steps=(), controls=False, n_stages=0)
    figures = bottleneck_figures(analyse_bottleneck(scores, SETTINGS), 0.02, 0.05)
    assert set(figures) == ALL_FIGURES - {"collapse.png", "stage_cosines.png"}
    nothing = analyse_bottleneck(replaced(scores, target=np.zeros_like(scores.target)), SETTINGS)
    assert "t_curve.png" not in bottleneck_figures(nothing, 0.02, 0.05)


@pytest.fixture(scope="module")
def analysis() -> BottleneckAnalysis:
    return analyse_bottleneck(many_labels(), SETTINGS)


def test_figures_from_files_equal_figures_from_memory(tmp_path: Path, analysis: BottleneckAnalysis) -> None:
    run = open_run_directory(tmp_path / "run")
    with run.staged() as stage:
        stage.write_csv("per_label.csv", analysis.per_label, LONG_COLUMNS)
        stage.write_csv("t_curve.csv", analysis.t_curve, LONG_COLUMNS)
        stage.write_csv("agreement.csv", analysis.agreement, LONG_COLUMNS)
        stage.write_csv("collapse.csv", analysis.collapse, COLLAPSE_COLUMNS)
        stage.write_json("summary.json", analysis.summary())
    per_label, t_curve, agreement, collapse = (
        read_csv(tmp_path / "run" / f"{name}.csv") for name in ("per_label", "t_curve", "agreement", "collapse")
    )
    pairs = [
        (t_curve_figure(t_curve, 0.02), t_curve_figure(analysis.t_curve, 0.02)),
        (heat_map_figure(per_label), heat_map_figure(analysis.per_label)),
        (collapse_figure(collapse, t_curve), collapse_figure(analysis.collapse, analysis.t_curve)),
        (
            forest_figure(per_label, t_curve, 0.02, 0.05),
            forest_figure(analysis.per_label, analysis.t_curve, 0.02, 0.05),
        ),
        (flips_figure(agreement), flips_figure(analysis.agreement)),
        (cosine_figure(agreement), cosine_figure(analysis.agreement)),
    ]
    for read, fresh in pairs:
        assert read is not None
        assert fresh is not None
        assert png(read) == png(fresh)


def test_the_heat_map_shows_each_difference_and_hatches_the_undefined(analysis: BottleneckAnalysis) -> None:
    figure = heat_map_figure(analysis.per_label, analysis.display_names)
    assert figure is not None
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert len(cells) == 19 * 4
    worst = min(entry["delta_auroc"] for entry in analysis.verdict["per_label"] if entry["reason"] == "")
    assert cells[0] == f"−{abs(worst):.2f}".replace("0.", ".")
    assert len([patch for patch in figure.axes[0].patches if patch.get_hatch()]) == 4


def test_collapse_states_are_written(analysis: BottleneckAnalysis) -> None:
    figure = collapse_figure(analysis.collapse, analysis.t_curve, analysis.display_names)
    assert figure is not None
    found = texts(figure)
    assert "lost without noise" in found
    assert "undefined: no positives" in found


def test_the_forest_names_every_label_and_the_macro_average(analysis: BottleneckAnalysis) -> None:
    figure = forest_figure(analysis.per_label, analysis.t_curve, 0.02, 0.05, analysis.display_names)
    assert figure is not None
    found = texts(figure)
    assert "macro average" in found
    assert "L0" in found
    assert sum(text.endswith(" pos.") for text in found) == 19


def test_long_names_keep_both_ends() -> None:
    assert short_name("short") == "short"
    name = short_name("Proliferative diabetic retinopathy, right eye")
    assert len(name) == 28
    assert name.startswith("Proliferative")
    assert name.endswith("right eye")


def test_classifier_figures() -> None:
    figures = classifier_figures(analyse_classifier(classifier_scores(absent=True), SETTINGS))
    assert set(figures) == {"per_label.png", "reliability.png"}
    for figure in figures.values():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.asarray(Image.open(io.BytesIO(png(figure))).convert("L")).std() > 5
    assert "undefined: no positives" in texts(figures["per_label.png"])
