"""Every figure draws for many and few labels and steps, from fresh rows and from CSV files alike."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image
from synthetic_scores import classifier_scores, make_scores, replaced

from layerscope.artifacts import LONG_COLUMNS, open_run_directory, read_csv, read_summary
from layerscope.artifacts.tables import COLLAPSE_COLUMNS
from layerscope.report.bottleneck import AnalysisSettings, BottleneckAnalysis, analyse_bottleneck
from layerscope.report.classifier import analyse_classifier
from layerscope.report.figure_style import VERDICT_COLOURS, png, short_name
from layerscope.report.figures_bottleneck import bottleneck_figures
from layerscope.report.figures_classifier import classifier_figures
from layerscope.report.figures_cosines import cosine_figure
from layerscope.report.figures_loss import flips_figure, forest_figure
from layerscope.report.figures_noise import collapse_figure, heat_map_figure, t_curve_figure
from layerscope.report.pictures import crop_comparison

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


def legend(figure: Figure) -> list[str]:
    """What the legend below a figure explains."""
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


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
        (t_curve_figure(t_curve, 0.02, 0.95), t_curve_figure(analysis.t_curve, 0.02, 0.95)),
        (heat_map_figure(per_label), heat_map_figure(analysis.per_label)),
        (collapse_figure(collapse, t_curve, 0.95), collapse_figure(analysis.collapse, analysis.t_curve, 0.95)),
        (
            forest_figure(per_label, read_summary(tmp_path / "run")["verdict"], 0.02, 0.05),
            forest_figure(analysis.per_label, analysis.verdict, 0.02, 0.05),
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
    figure = collapse_figure(analysis.collapse, analysis.t_curve, 0.95, analysis.display_names)
    assert figure is not None
    found = texts(figure)
    assert "lost without noise" in found
    assert "undefined: no positives" in found


def test_a_collapse_that_is_only_a_bound_is_written_and_thin_labels_show_no_onset(analysis: BottleneckAnalysis) -> None:
    first = max(row["log_snr"] for row in analysis.t_curve if row["t"] is not None)
    point = {"state": "collapsed", "collapse_log_snr": first, "ci_lo": first, "ci_hi": np.inf, "onset_log_snr": first}
    flags = ["lost at or above the first noise step: the point is a bound", "no onset: only 3 positives"]
    rows = [{**row, **point, "flag": flag} for row, flag in zip(analysis.collapse, flags)]
    rows.append(next(row for row in analysis.collapse if row["label"] == "macro"))
    figure = collapse_figure(rows, analysis.t_curve, 0.9, analysis.display_names)
    assert figure is not None
    assert texts(figure).count("lost by the first step") == 1
    diamonds = [line for line in figure.axes[1].lines if line.get_marker() == "D"]
    # The bound and the macro average have one; the label with too few samples, in the middle, has none.
    assert [int(line.get_ydata()[0]) for line in diamonds] == [0, 2]
    assert any(text.startswith("90 % bootstrap") for text in legend(figure))


def test_crosses_of_labels_lost_without_noise_stand_beside_the_noise_axis(analysis: BottleneckAnalysis) -> None:
    figure = collapse_figure(analysis.collapse, analysis.t_curve, 0.95, analysis.display_names)
    assert figure is not None
    clean, noise = figure.axes
    lost = sum(row["state"] == "collapsed_at_recon" for row in analysis.collapse)
    assert lost > 0
    assert sum(line.get_marker() == "X" for line in clean.lines) == lost
    assert not any(line.get_marker() == "X" for line in noise.lines)


def test_the_forest_names_every_label_and_the_macro_average(analysis: BottleneckAnalysis) -> None:
    figure = forest_figure(analysis.per_label, analysis.verdict, 0.02, 0.05, analysis.display_names)
    assert figure is not None
    found = texts(figure)
    assert "macro average" in found
    assert "L0" in found
    assert "undefined: no positives" in found
    assert "95 %, all labels jointly (in brackets)" in legend(figure)


def test_the_forest_shows_the_verdict_and_not_one_of_its_own() -> None:
    scores = make_scores(n=120, n_labels=3)
    target = scores.target.copy()
    target[:, 0] = 0
    target[np.flatnonzero(scores.known[:, 0])[:3], 0] = 1  # three positives: whatever the interval, nothing is decided
    logits = scores.logits.copy()
    logits[:, :, 2] = np.random.default_rng(1).normal(size=logits.shape[:2])  # the teacher does not know this label
    analysis = analyse_bottleneck(replaced(scores, target=target, logits=logits), SETTINGS)
    entries = {entry["label"]: entry for entry in analysis.verdict["per_label"]}
    assert {name: entry["verdict"] for name, entry in entries.items()} == {
        "label0": "inconclusive", "label1": "not a bottleneck", "label2": "undefined",
    }  # fmt: skip
    assert analysis.verdict["overall"]["labels_left_out"] == ["label0"]
    figure = forest_figure(analysis.per_label, analysis.verdict, 0.02, 0.05)
    assert figure is not None
    markers = {line.get_xdata()[0]: line for line in figure.axes[0].lines if line.get_marker() != "None"}
    for entry in [*entries.values(), analysis.verdict["overall"]]:
        line = markers.pop(entry["delta_auroc"])
        assert line.get_color() == VERDICT_COLOURS[entry["verdict"]]
        assert (line.get_markerfacecolor() == "white") == (entry.get("label") == "label0")
    assert not markers
    assert "macro average\n(2 labels; 1 left out)" in texts(figure)
    found = legend(figure)
    assert "inconclusive: too few samples" in found
    assert "undefined: not recognised on real images" in found


def test_the_t_curve_stays_between_zero_and_one() -> None:
    scores = make_scores(n=24, n_labels=2, steps=((14, 4.3), (330, 0.2)))
    logits = scores.logits.copy()
    logits[1:] = -logits[0] + np.random.default_rng(0).normal(size=logits[1:].shape)  # worse than chance, with spread
    scores = replaced(scores, logits=logits)
    analysis = analyse_bottleneck(scores, SETTINGS)
    real = next(row["value"] for row in analysis.t_curve if row["metric"] == "auroc" and row["condition"] == "real")
    noise = [row for row in analysis.t_curve if row["metric"] == "auroc" and row["label"] == "macro" and row["t"]]
    assert min(real + row["ci_sim_lo"] for row in noise if row["draw"] == "mean") < 0
    figure = t_curve_figure(analysis.t_curve, 0.02, 0.8)
    assert figure is not None
    for axes in figure.axes:
        bottom, top = axes.get_ylim()
        assert 0 <= bottom < top <= 1
    bands = [band for axes in figure.axes for band in axes.collections if isinstance(band, PolyCollection)]
    assert len(bands) == 2
    assert min(path.vertices[:, 1].min() for band in bands for path in band.get_paths()) == 0
    assert "80 % simultaneous band (AUROC, all t)" in legend(figure)


def test_cosines_and_normalised_cosines_have_axes_of_their_own(analysis: BottleneckAnalysis) -> None:
    rows = [
        {**row, "value": -3.0, "ci_lo": -3.5, "ci_hi": -2.5}
        if row["metric"].endswith(".pooled_cosine_normalised")
        else row
        for row in analysis.agreement
    ]
    figure = cosine_figure(rows)
    assert figure is not None
    raw, normalised = figure.axes[:2]
    assert raw.get_ylim()[0] > 0
    assert normalised.get_ylim()[0] < -3.5


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
    assert "known image–\nlabel pairs (log)" in [axes.get_ylabel() for axes in figures["reliability.png"].axes]
    assert {axes.get_xlim()[0] for axes in figures["per_label.png"].axes} == {0.0}


def test_labels_of_the_reliability_figure_are_named_while_they_can_be_told_apart() -> None:
    few, many = (
        classifier_figures(analyse_classifier(classifier_scores(n_labels=n), SETTINGS))["reliability.png"]
        for n in (3, 9)
    )
    assert {"Label 0", "Label 1", "Label 2"} <= set(legend(few))
    assert "thin lines: one label each" in legend(many)
    assert "Label 0" not in legend(many)


def test_the_crop_says_where_it_is_and_names_its_panels() -> None:
    original = np.full((64, 96, 3), 120, dtype=np.uint8)
    recon = original.copy()
    recon[40:44, 70:74] = 220
    picture = crop_comparison({"real": original, "recon": recon, "t330": recon}, scale=50.0)
    heading, panels = picture[:-256], picture[-256:]
    assert picture.shape[1] == 4 * 256 + 3 * 6
    for place in range(4):
        edge = place * 262
        assert (heading[heading.shape[0] // 2 :, edge : edge + 256] < 100).any()
    assert (heading[: heading.shape[0] // 2] < 100).any()
    assert (panels[:, :256] == 120).all()
    assert set(np.unique(panels[:, 262 : 262 + 256])) == {120, 220}
