"""Curves of token figures show the numbers they are given, for one layer and many, one model and two, one image."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from synthetic_tokens import changed_tokens, token_scores

from layerscope.artifacts.token_scores import TokenScores
from layerscope.report.attribution import NOTICE
from layerscope.report.figure_style import BLUE, VERMILION, png
from layerscope.report.token_curves import layer_curves_figure
from layerscope.report.token_statistics import TokenAnalysis, TokenSettings, analyse_tokens

FAST = TokenSettings(n_bootstrap=50)


def drawn(scores: TokenScores) -> tuple[TokenAnalysis, Figure]:
    analysis = analyse_tokens(scores, FAST)
    return analysis, layer_curves_figure(analysis)


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}


def legend(figure: Figure) -> str:
    legends = [*figure.legends, *(one for axes in figure.axes if (one := axes.get_legend()))]
    return "\n".join(text.get_text() for one in legends for text in one.get_texts())


def line(axes: Axes, colour: str, style: str = "-") -> np.ndarray:
    return next(
        np.asarray(one.get_xydata())
        for one in axes.lines
        if one.get_color() == colour and one.get_linestyle() == style and len(one.get_xdata()) > 1
    )


def test_curves_and_bands_are_the_means_and_their_intervals() -> None:
    analysis, figure = drawn(token_scores(layers=5))
    shown = panels(figure)
    image, recon = analysis.views[:2]
    axes = shown["neighbour similarity (cosine)"]
    curve = image.curve("neighbour_similarity")
    assert curve is not None
    np.testing.assert_allclose(line(axes, BLUE), np.stack([np.arange(5), curve[0]], axis=1))
    band = axes.collections[-1].get_paths()[0].vertices  # the image is drawn last
    assert {*np.round(curve[1:].ravel(), 9)} <= {*np.round(np.asarray(band)[:, 1], 9)}
    shifted = image.curve("shifted_border_drop")
    assert shifted is not None
    np.testing.assert_allclose(line(shown["drop at the mask's border"], BLUE, "--")[:, 1], shifted[0])
    paired = recon.difference_curve("neighbour_similarity")
    assert paired is not None
    np.testing.assert_allclose(line(shown["neighbour similarity − image's"], VERMILION)[:, 1], paired[0])
    change = recon.curve("token_change")
    assert change is not None
    np.testing.assert_allclose(line(shown["token change (1 − cosine)"], VERMILION)[:, 1], change[0])
    assert shown["token norm"].get_yscale() == "log"
    assert shown["effective rank"].get_yscale() == "linear"
    for name in ("image", "reconstruction", "JPEG at quality 75", "shifted borders", "of all layers at once"):
        assert name in legend(figure)


def test_the_heading_says_where_tokens_were_taken_and_leaves_the_notice_free() -> None:
    grouped = token_scores(n=120, layers=1, views=(), masks=False, cls=False)
    grouped = changed_tokens(grouped, norm="after", group=[str(row // 2) for row in range(120)])
    for scores, words in ((grouped, "after the final norm"), (token_scores(), "before the final norm")):
        _, figure = drawn(scores)
        assert words in figure.get_suptitle()
        figure.draw_without_rendering()
        notice = next(text for text in figure.texts if text.get_text() == NOTICE)
        heading = next(text for text in figure.texts if text.get_text() == figure.get_suptitle())
        assert not heading.get_window_extent().overlaps(notice.get_window_extent())


def test_the_panel_names_every_token_that_patches_are_compared_with() -> None:
    scores = token_scores(views=("other_model",))
    views = [scores.views[0], replace(scores.views[1], prefix=(), cls_source="pooled")]
    assert "similarity to CLS or pooled" in panels(drawn(changed_tokens(scores, views=views))[1])
    without = [replace(views[0], figure=["-" if f == "cls_similarity" else f for f in views[0].figure]), views[1]]
    assert "similarity to pooled (cosine)" in panels(drawn(changed_tokens(scores, views=without))[1])


def test_panels_without_a_value_are_left_out() -> None:
    _, figure = drawn(token_scores(views=(), masks=False, cls=False))
    assert set(panels(figure)) == {"neighbour similarity (cosine)", "effective rank", "token norm"}
    assert "shifted" not in legend(figure)
    assert NOTICE in [text.get_text() for text in figure.texts]


def test_one_layer_is_dots_with_bars() -> None:
    analysis, figure = drawn(token_scores(layers=1))
    axes = panels(figure)["token change (1 − cosine)"]
    assert len(axes.containers) == 2
    heights = {round(float(one.lines[0].get_ydata()[0]), 9) for one in axes.containers}  # type: ignore[attr-defined]
    assert heights == {round(view.at("token_change").value, 9) for view in analysis.views[1:]}
    assert axes.get_xlabel() == "encoder.layers.0"
    assert "95 % interval of the mean" in legend(figure)


def test_models_with_other_layers_stand_by_relative_depth() -> None:
    _, figure = drawn(token_scores(views=("reconstruction", "other_model"), layers=6, other_layers=4))
    shown = panels(figure)
    axes = shown["effective rank"]
    assert sorted(len(one.get_xdata()) for one in axes.lines) == [4, 6, 6]
    assert all((one.get_xdata()[0], one.get_xdata()[-1]) == (0, 1) for one in axes.lines)
    assert "other model (dinov2)" in legend(figure)
    # Of layers that do not correspond there is no difference to draw.
    assert len([one for one in shown["neighbour similarity − image's"].lines if len(one.get_xdata()) == 6]) == 1
    _, single = drawn(token_scores(views=("other_model",), layers=6, other_layers=1))
    assert len(panels(single)["effective rank"].containers) == 1


def test_one_image_has_no_bands() -> None:
    _, figure = drawn(token_scores(n=1))
    assert all(not axes.collections for axes in figure.axes)
    assert "interval" not in legend(figure)
    assert "one image (no intervals)" in figure.get_suptitle()


@pytest.mark.parametrize(
    "scores",
    [
        token_scores(n=6, layers=40, views=("reconstruction", "jpeg_q75", "jpeg_q95", "down2", "other_model")),
        token_scores(n=3, layers=2, views=("jpeg_q75",), masks=False),
        token_scores(n=6, views=("other_model",)),
        token_scores(n=0),
    ],
    ids=["many layers and views", "two layers", "one free place", "no image"],
)
def test_nothing_overlaps_and_files_are_the_same_twice(scores: TokenScores) -> None:
    _, figure = drawn(scores)
    file = png(figure)
    assert file == png(drawn(scores)[1])
    with Image.open(io.BytesIO(file)) as image:
        assert image.width <= 1500
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
    boxes += [one.get_tightbbox() for one in figure.legends]
    boxes += [one.get_tightbbox() for axes in figure.axes if (one := axes.get_legend())]
    for place, box in enumerate(boxes):
        assert box is not None
        assert box.x1 <= figure.bbox.x1 + 1
        assert not any(box.overlaps(other) for other in boxes[:place] if other is not None)
