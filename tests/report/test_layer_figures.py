"""Figures of layer differences show the numbers they are given, for few and many layers, with and without a floor."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image
from synthetic_layers import DECODER, changed, layer_scores

from layerscope.artifacts.layer_scores import DIFFERENCES, LOCALISATION
from layerscope.report.attribution import NOTICE
from layerscope.report.figure_style import BLUE, GREY, VERMILION, png
from layerscope.report.figures_layers import aggregated_figure, localisation_figure, pair_figure
from layerscope.report.heat_maps import HeatMap, heat_map_overlay, heat_map_sheet, reconstruction_figure
from layerscope.report.layer_effects import PairSettings, analyse_layers

FAST = PairSettings(n_bootstrap=50)
MANY = ("input", *(f"encoder.down_blocks.{k}" for k in range(18)), "latent", *(f"decoder.up.{k}" for k in range(20)))


def opened(figure: Figure) -> np.ndarray:
    """The pixels of the figure's file."""
    with Image.open(io.BytesIO(png(figure))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def said(figure: Figure) -> str:
    """Everything written in a figure, one text a line."""
    texts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        texts += [text.get_text() for text in axes.texts]
        texts += [tick.get_text() for tick in [*axes.get_xticklabels(), *axes.get_yticklabels()]]
        texts += [axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")]
    for legend in figure.legends:
        texts += [text.get_text() for text in legend.get_texts()]
    notes = [figure._suptitle, figure._supxlabel]  # type: ignore[attr-defined]
    return "\n".join([*texts, *(note.get_text() for note in notes if note is not None)])


def bars(figure: Figure, panel: int) -> list[tuple[float, str]]:
    """Length and colour of each bar of a panel, from the top."""
    container = next(c for c in figure.axes[panel].containers if isinstance(c, BarContainer))
    return [(bar.get_width(), to_hex(bar.get_facecolor()).upper()) for bar in container]


def dots(figure: Figure, panel: int) -> list[tuple[float, str, float]]:
    """Value, colour and length of interval of every dot of a panel, as drawn."""
    found = []
    for container in figure.axes[panel].containers:
        if isinstance(container, ErrorbarContainer):
            line, _, (bar,) = container.lines
            (start, end) = bar.get_segments()[0][:, 0]
            found.append((float(line.get_xdata()[0]), str(line.get_color()), float(end - start)))
    return found


def test_a_pair_is_drawn_as_bars_with_the_top_five_marked() -> None:
    scores = layer_scores()
    figure = pair_figure(scores, 3)
    text = said(figure)
    for panel, metric in enumerate(("relative_l2", "cosine_dissimilarity")):
        values = scores.values[3, :, DIFFERENCES.index(metric)]
        drawn = bars(figure, panel)
        assert [width for width, _ in drawn] == pytest.approx(values.tolist())
        marked = {row for row, (_, colour) in enumerate(drawn) if colour == VERMILION}
        assert marked == set(sorted(range(2, 17), key=lambda row: -values[row])[:5])
        assert [row for row, (_, colour) in enumerate(drawn) if colour == GREY] == [0, 1, 17]
    assert all(name in text for name in (*DECODER, "latent", scores.id[3], NOTICE))
    assert 1300 < opened(figure).shape[1] < 2000
    assert bars(pair_figure(scores, 4), 0) != bars(figure, 0)


def test_the_method_chooses_the_panels() -> None:
    scores = layer_scores()
    one = pair_figure(scores, 0, "cosine")
    assert [axes.get_xlabel() for axes in one.axes] == ["cosine dissimilarity"]
    assert len(pair_figure(scores, 0, "l2").axes) == 1
    labels = [axes.get_xlabel() for axes in aggregated_figure(analyse_layers(scores, FAST), "cosine").axes]
    assert labels[0] == "cosine dissimilarity"
    assert labels[1].startswith("effect of cosine dissimilarity")


def test_the_floor_stands_beside_each_bar_of_relative_l2_and_covers_no_number() -> None:
    scores = layer_scores()
    floor = scores.floor.copy()
    floor[:, :, 2] *= np.linspace(1, 4.5, len(scores.layer))
    figure = pair_figure(changed(scores, floor=floor), 3)
    (line,) = figure.axes[0].lines
    assert line.get_xdata() == pytest.approx(floor[:, :, 2].mean(axis=0))
    assert line.get_ydata() == pytest.approx(
        [bar.get_y() + bar.get_height() / 2 for bar in figure.axes[0].patches[-18:]]
    )
    assert len(figure.axes[1].lines) == 0
    assert said(figure).count("noise floor: pairs of negatives") == 1
    FigureCanvasAgg(figure).draw()
    markers = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert not any(box.x0 - 2 < x < box.x1 + 2 and box.y0 < y < box.y1 for x, y in markers)
    assert "floor" not in said(pair_figure(scores, 3, "cosine"))
    assert "floor" not in said(pair_figure(layer_scores(n_floor=0), 3))


def test_identical_images_have_bars_of_no_length() -> None:
    scores = layer_scores()
    same = changed(scores, values=np.zeros_like(scores.values))
    assert {width for width, _ in bars(pair_figure(same, 0), 0)} == {0.0}
    assert VERMILION not in {colour for _, colour in bars(pair_figure(same, 0), 0)}


def test_forty_layers_stay_readable_and_apart() -> None:
    scores = layer_scores(relative=tuple(np.linspace(0.1, 0.3, len(MANY))), layer=MANY)
    for figure in (pair_figure(scores, 0), aggregated_figure(analyse_layers(scores, FAST))):
        assert 7.5 < figure.get_figheight() < 13
        FigureCanvasAgg(figure).draw()
        boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        tops = sorted(box.y0 for box in boxes)
        assert len(boxes) == len(MANY)
        assert min(np.diff(tops)) > 0.9 * boxes[0].height
        assert all(box.x0 >= 0 for box in boxes)


def test_all_pairs_are_drawn_with_floor_effect_and_cka() -> None:
    analysis = analyse_layers(layer_scores(), FAST)
    figure = aggregated_figure(analysis)
    table = analysis.differences
    assert len(figure.axes) == 4
    column = DIFFERENCES.index("relative_l2")
    drawn = dots(figure, 0)
    floor, own = drawn[:18], drawn[18:]
    assert [value for value, *_ in own] == pytest.approx(table.pairs.mean[:, column].tolist())
    assert [length for *_, length in own] == pytest.approx((table.pairs.hi - table.pairs.lo)[:, column].tolist())
    assert [value for value, *_ in floor] == pytest.approx(table.floor.mean[:, column].tolist())
    effects = dots(figure, 2)
    assert [value for value, *_ in effects] == pytest.approx(table.effect[:, column].tolist())
    assert {row for row, dot in enumerate(effects) if dot[1] == VERMILION} == set(analysis.top_ranked())
    cka = dots(figure, 3)
    assert [value for value, *_ in cka] == pytest.approx(analysis.cka.value.tolist())
    assert [length for *_, length in cka] == pytest.approx((analysis.cka.hi - analysis.cka.lo).tolist())
    assert {row for row, dot in enumerate(cka) if dot[1] == VERMILION} == set(analysis.top("linear_cka"))
    assert "noise floor: pairs of negatives" in said(figure)
    assert opened(figure).shape[0] > 800


def test_one_pair_without_floor_and_cka_is_drawn_without_what_it_lacks() -> None:
    scores = layer_scores(n=1, n_floor=0)
    figure = aggregated_figure(analyse_layers(scores, FAST))
    assert [axes.get_xlabel() for axes in figure.axes] == ["relative L2", "cosine dissimilarity"]
    text = said(figure)
    assert "floor" not in text
    assert "interval" not in text
    assert "over 1 pair" in text
    opened(aggregated_figure(analyse_layers(layer_scores(n=0, n_floor=0), FAST)))


def test_cka_of_few_groups_is_drawn_but_no_layer_is_marked() -> None:
    figure = aggregated_figure(analyse_layers(layer_scores(n=16), FAST))
    assert VERMILION in {colour for _, colour, _ in dots(figure, 2)}
    assert VERMILION not in {colour for _, colour, _ in dots(figure, 3)}
    assert min(length for *_, length in dots(figure, 3)) > 0
    assert "few pairs: no rank" in said(figure)


def test_localisation_marks_layers_that_surely_exceed_their_control() -> None:
    scores = layer_scores()
    control = scores.control.copy()
    control[:, :4] = scores.localisation[:, :4]
    analysis = analyse_layers(changed(scores, control=control), FAST)
    figure = localisation_figure(analysis)
    assert figure is not None
    drawn = dots(figure, 0)
    shifted, own = drawn[:18], drawn[18:]
    auroc = LOCALISATION.index("auroc")
    assert [value for value, *_ in own] == pytest.approx(analysis.localisation.mask.mean[:, auroc].tolist())
    assert [value for value, *_ in shifted] == pytest.approx(analysis.localisation.shifted.mean[:, auroc].tolist())
    assert [colour for _, colour, _ in own] == [BLUE] * 4 + [VERMILION] * 14
    assert "control: shifted masks" in said(figure)
    assert 900 < opened(figure).shape[0] < 1300
    assert localisation_figure(analyse_layers(layer_scores(masks=False), FAST)) is None


def test_an_overlay_is_bright_where_the_distance_is_and_outlines_the_mask() -> None:
    image = np.full((64, 96, 3), 120, dtype=np.uint8)
    distance = np.zeros((8, 12))
    distance[2, 9] = 4.0
    plain = heat_map_overlay(image, distance, None, top=4.0)
    assert plain.shape == image.shape
    assert plain.dtype == np.uint8
    light = plain.sum(axis=2)
    y, x = np.unravel_index(light.argmax(), light.shape)
    assert (abs(y - 20), abs(x - 76)) <= (4, 4)
    assert light[20, 76] > 2 * light[50, 20]
    # The scale is the caller's: twice the top is half as strong, and nothing at all has the colour of zero everywhere.
    assert heat_map_overlay(image, distance, None, top=8.0)[20, 76].sum() < light[20, 76]
    for nothing in (heat_map_overlay(image, 0 * distance, None, 4.0), heat_map_overlay(image, distance, None, 0.0)):
        assert (nothing == nothing[0, 0]).all()
    mask = np.zeros((64, 96), dtype=bool)
    mask[10:30, 60:90] = True
    outlined = heat_map_overlay(image, distance, mask, top=4.0)
    differs = (outlined != plain).any(axis=2)
    assert (outlined[10, 60:90] == (0, 255, 255)).all()
    assert (outlined[9, 60:90] == 0).all()
    assert not differs[12:28, 62:88].any()
    assert not differs[40:].any()
    np.testing.assert_array_equal(heat_map_overlay(image, distance, np.zeros_like(mask), 4.0), plain)
    # The image shows through.
    image[50:, :48] = 250
    assert heat_map_overlay(image, distance, None, 4.0)[55, 20].sum() > plain[55, 20].sum() + 100


def test_the_contact_sheet_shows_every_layer_with_its_own_scale() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 255, size=(2, 128, 96, 3), dtype=np.uint8)
    mask = np.zeros((128, 96), dtype=bool)
    mask[30:50, 30:50] = True
    maps = [HeatMap(name, rng.uniform(0, k + 1.0, size=(16, 12)), 0.9, 0.5) for k, name in enumerate(DECODER)]
    sheet = heat_map_sheet("case $1", positive, negative, mask, maps)
    text = said(sheet)
    for one in maps:
        assert f"scale 0 to {one.top:.3g}".replace(" 0.", " .") in text
        assert one.layer.rpartition(".")[2] in text
    assert "AUROC .90 (.50)" in text
    assert "positive\n" in text
    assert "cyan: lesion mask" in text
    assert NOTICE in text
    picture = opened(sheet)
    assert picture.shape[1] == 1406
    assert (picture == (0, 255, 255)).all(axis=2).sum() > 16 * 50
    bare = heat_map_sheet("case", positive, negative, None, [HeatMap("norm", np.zeros((4, 4)))])
    assert "AUROC" not in said(bare)
    assert "scale 0 to 0" in said(bare)
    assert not (bare.axes[0].images[0].get_array() == (0, 255, 255)).all(axis=2).any()
    moved = [HeatMap(one.layer, one.distance[::-1], one.auroc, one.control) for one in maps]
    first, second = (
        one.axes[0].images[0].get_array() for one in (sheet, heat_map_sheet("", positive, negative, mask, moved))
    )
    assert not np.array_equal(first, second)


def test_reconstructions_stand_beside_their_originals_with_differences_of_both_kinds() -> None:
    negative = np.full((64, 64, 3), 100, dtype=np.uint8)
    positive = negative.copy()
    positive[20:40, 20:40] = 160
    weak = negative + np.uint8(2)
    weak_positive = weak.copy()
    weak_positive[20:40, 20:40] = 130
    mask = (positive != negative).any(axis=2)
    figure = reconstruction_figure(positive, negative, weak_positive, weak, mask)
    text = said(figure)
    for words in ("original", "reconstruction", "positive", "negative", "limit\n60 levels", "lesion mask", NOTICE):
        assert words in text
    shown = figure.axes[0].images[0].get_array()
    side = 64 * 4
    step = side + 6
    assert shown.shape == (3 * step - 6, 3 * step - 6, 3)
    tiles = [[shown[r * step :, c * step :][:side, :side] for c in range(3)] for r in range(3)]
    np.testing.assert_array_equal(tiles[1][0], np.kron(negative, np.ones((4, 4, 1), dtype=np.uint8)))
    np.testing.assert_array_equal(tiles[0][1], np.kron(weak_positive, np.ones((4, 4, 1), dtype=np.uint8)))
    assert (tiles[2][2] == 255).all()
    # Below the originals the lesion is at the strongest red; half of it survives in the reconstruction.
    strong, half = tiles[2][0][120, 120].astype(int), tiles[2][1][120, 120].astype(int)
    assert strong[0] > strong[2] + 50
    assert half[1] > strong[1] + 50
    assert tiles[0][2][120, 120][2] > tiles[0][2][120, 120][0]
    opened(figure)
    assert "lesion mask" not in said(reconstruction_figure(positive, negative, positive, negative))
