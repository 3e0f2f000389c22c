"""Pictures of token similarity show the maps they are given, where the patches are, and say what is missing."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from layerscope.artifacts.token_maps import ImageTokens
from layerscope.errors import ConfigurationError
from layerscope.report.attribution import NOTICE
from layerscope.report.figure_style import figure_bytes
from layerscope.report.token_comparison import comparison_figure, comparison_files, difference_figure, difference_map
from layerscope.report.token_figures import (
    combined_figure,
    layer_sheet,
    map_overlay,
    overlay_figure,
    single_map_figure,
    token_files,
)
from layerscope.report.token_layer_curves import curve_panels
from layerscope.report.token_panels import map_scale, scale_of, symmetric_scale
from layerscope.report.token_places import on_grid, placed_nearest
from layerscope.report.token_style import TokenPictures

SMALL = TokenPictures(dpi=40)
LAYERS = ("vision_model.encoder.layers.0", "vision_model.encoder.layers.1", "vision_model.encoder.layers.2")


def image_tokens(
    grid: tuple[int, int] = (4, 6),
    layers: tuple[str, ...] = LAYERS[:1],
    cls: str = "cls",
    extra: tuple[str, ...] = (),
    seed: int = 0,
    high: bool = True,
    **changed: object,
) -> ImageTokens:
    """Maps of random tokens in the given layers; the token in the first row's second patch has a high norm."""
    draws, (rows, columns) = np.random.default_rng(seed), grid
    tokens = draws.normal(size=(len(layers), rows, columns, 5)) + 1
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    maps = {
        "horizontal_right": (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1),
        "vertical_down": (unit[:, 1:] * unit[:, :-1]).sum(-1),
        "norms": np.linalg.norm(tokens, axis=-1),
    }
    if "diagonal_down_left" in extra:
        maps["diagonal_down_left"] = (unit[:, 1:, :-1] * unit[:, :-1, 1:]).sum(-1)
    for name in (*(["cls_similarity"] if cls else []), *(one for one in extra if not one.startswith("diagonal"))):
        maps[name] = unit @ (np.ones(5) / np.sqrt(5))
    marked = np.zeros(maps["norms"].shape, dtype=bool)
    if high and columns > 1:
        maps["norms"][:, 0, 1] = 500
        marked[:, 0, 1] = True
    values = {
        "id": "left eye $3$",
        "view": "image",
        "model": "openai/clip-vit-base-patch32",
        "similarity_metric": "cosine",
        "norm": "after",
        "shown": (0.0, 0.0, 90.0, 90.0),
        "prefix": ("cls",) if cls == "cls" else (),
        "prefix_norms": np.full((len(layers), 1 if cls == "cls" else 0), 3.0, dtype=np.float32),
        "figures": {"effective_rank": np.linspace(2, 4, len(layers)), "border_drop": np.full(len(layers), np.nan)},
    } | changed
    float_maps = {name: values.astype(np.float32) for name, values in maps.items()}
    return ImageTokens(cls_source=cls, grid_size=grid, layers=layers, maps=float_maps | {"high_norm": marked}, **values)  # type: ignore[arg-type]


def picture_of(grid: tuple[int, int], side: int = 8) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (grid[0] * side, grid[1] * side, 3), dtype=np.uint8)


def said(figure: Figure) -> str:
    """Everything written in a figure."""
    texts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        texts += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
        texts += [text.get_text() for text in axes.texts]
    return "\n".join(texts)


def panels(figure: Figure, title: str) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title(loc="left") == title]


def drawn(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_the_combined_figure_shows_every_map_at_the_place_of_its_patches() -> None:
    tokens = image_tokens(extra=("diagonal_down_left", "seed_similarity", "text_similarity"))
    figure = combined_figure(picture_of((4, 6)), tokens, SMALL)
    places = {
        "horizontal neighbours (→)": ("horizontal_right", [0.5, 5.5, 4, 0]),
        "vertical neighbours (↓)": ("vertical_down", [0, 6, 3.5, 0.5]),
        "diagonal neighbours (↙)": ("diagonal_down_left", [0.5, 5.5, 3.5, 0.5]),
        "patch to CLS": ("cls_similarity", [0, 6, 4, 0]),
        "patch to seed patch": ("seed_similarity", [0, 6, 4, 0]),
        "patch to text": ("text_similarity", [0, 6, 4, 0]),
        "token norms": ("norms", [0, 6, 4, 0]),
    }
    for title, (name, extent) in places.items():
        (axes,) = panels(figure, title)
        np.testing.assert_array_equal(drawn(axes), tokens.maps[name][-1])
        assert list(axes.images[0].get_extent()) == extent
        assert (*axes.get_xlim(), *axes.get_ylim()) == (0, 6, 4, 0)
        box = axes.get_position()
        width, height = figure.get_size_inches()
        assert box.height * height / (box.width * width) == pytest.approx(4 / 6)
        mean, spread = tokens.maps[name][-1].mean(), tokens.maps[name][-1].std()
        shown = axes.texts[0].get_text().replace("−", "-").removeprefix("mean ").split(" ± ")
        assert [float(one) for one in shown] == pytest.approx([mean, spread], rel=0.1)
    text = said(figure)
    for words in ("left eye \\$3\\$", tokens.model, LAYERS[0], "cosine", "after the final norm", NOTICE, "1 of 24"):
        assert words in text
    assert not panels(figure, "effective rank")


def test_neighbour_maps_share_a_scale_and_high_norms_do_not_take_all_colours() -> None:
    tokens = image_tokens((12, 12), extra=("diagonal_down_left",))
    figure = combined_figure(picture_of((12, 12)), tokens, SMALL)
    titles = ("horizontal neighbours (→)", "vertical neighbours (↓)", "diagonal neighbours (↙)")
    limits = {panels(figure, title)[0].images[0].get_clim() for title in titles}
    assert len(limits) == 1
    (norms,) = panels(figure, "token norms")
    assert norms.images[0].get_clim()[1] < 20
    assert np.allclose(norms.collections[0].get_offsets(), [[1.5, 0.5]])
    assert "Dots, and frames on the picture: high-norm tokens." in said(figure)
    assert "high-norm tokens." not in said(combined_figure(picture_of((4, 6)), image_tokens(high=False), SMALL))


def test_what_there_is_not_is_said_in_its_panel() -> None:
    without = combined_figure(picture_of((4, 6)), image_tokens(cls=""), SMALL)
    assert "no CLS token" in panels(without, "patch to CLS")[0].texts[-1].get_text()
    assert panels(combined_figure(picture_of((4, 6)), image_tokens(cls="pooled"), SMALL), "patch to pooled token")
    single = said(combined_figure(picture_of((1, 1)), image_tokens((1, 1)), SMALL))
    assert "one column:\nno horizontal neighbours" in single
    assert "one row:\nno vertical neighbours" in single
    assert "one column:\nno diagonal neighbours" in said(
        single_map_figure(image_tokens((3, 1), extra=("diagonal_down_left",)), "diagonal_down_left", SMALL)
    )
    tokens = image_tokens((1, 5), layers=LAYERS)
    for figure in (
        single_map_figure(tokens, "vertical_down", SMALL),
        overlay_figure(picture_of((1, 5)), tokens, "vertical_down", SMALL),
        layer_sheet(picture_of((1, 5)), tokens, "vertical_down", SMALL),
    ):
        assert "one row: no vertical neighbours" in said(figure).replace("\n", " ")
        assert figure_bytes(figure, "png", 40)
    with pytest.raises(ConfigurationError, match=r"'text_similarity' of 'left eye.*horizontal_right"):
        single_map_figure(image_tokens(), "text_similarity", SMALL)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [1.0, 0.0, -1.0, 1e-9, 3e4])
def test_constant_maps_have_a_scale(value: float) -> None:
    tokens = image_tokens(high=False, similarity_metric="cosine" if abs(value) <= 1 else "dot_product")
    maps = {name: np.full_like(one, value) if one.dtype != bool else one for name, one in tokens.maps.items()}
    constant = replace(tokens, maps=maps)
    for name in ("horizontal_right", "cls_similarity", "norms"):
        scale = map_scale([constant], name)
        assert scale.low < scale.high
        assert scale.low <= value <= scale.high
        assert scale.extend == "neither"
        assert name == "norms" or abs(value) > 1 or -1 <= scale.low < scale.high <= 1
    figure = combined_figure(picture_of((4, 6)), constant, SMALL)
    assert "constant" in panels(figure, "patch to CLS")[0].texts[0].get_text()
    assert figure_bytes(figure, "png", 40)


def test_scales_end_at_percentiles_and_say_what_lies_beyond() -> None:
    values = np.r_[np.linspace(0, 1, 999), 50.0]
    scale = scale_of([values])
    assert (scale.low, scale.high) == pytest.approx(tuple(np.percentile(values, [1, 99])))
    assert scale.extend == "max"
    one_of_many = scale_of([np.r_[np.zeros(999), 1.0]])
    assert (one_of_many.low, one_of_many.high) == (0, 1)
    signed = symmetric_scale([np.array([-3.0, 1.0, 2.0])])
    assert signed.low == -signed.high == pytest.approx(-np.percentile([3, 1, 2], 99))
    assert (symmetric_scale([np.zeros(4)]).low, symmetric_scale([np.zeros((0, 4))]).high) == (-1, 1)


def test_curves_are_the_means_over_all_places_of_a_layer() -> None:
    tokens = image_tokens(layers=LAYERS)
    figure = combined_figure(picture_of((4, 6)), tokens, SMALL)
    neighbours = []
    for layer in range(3):
        pairs = [float(tokens.maps["horizontal_right"][layer, r, c]) for r in range(4) for c in range(5)]
        pairs += [float(tokens.maps["vertical_down"][layer, r, c]) for r in range(3) for c in range(6)]
        neighbours.append(sum(pairs) / len(pairs))
    lines = {line.get_label(): line for line in panels(figure, "similarity")[0].lines}
    assert np.allclose(lines["neighbours"].get_ydata(), neighbours)
    assert np.allclose(lines["CLS"].get_ydata(), tokens.maps["cls_similarity"].mean(axis=(1, 2)))
    assert list(lines["CLS"].get_xdata()) == [0, 1, 2]
    (rank,) = panels(figure, "effective rank")[0].lines
    assert np.allclose(rank.get_ydata(), tokens.figures["effective_rank"])
    # What is undefined in every layer has no panel.
    assert "similarity" not in curve_panels(image_tokens((1, 1), layers=LAYERS, cls=""))


def test_a_layer_sheet_shows_every_layer_on_one_scale_but_for_norms() -> None:
    tokens = image_tokens(layers=LAYERS)
    for name, n_scales in (("cls_similarity", 1), ("norms", 3)):
        figure = layer_sheet(picture_of((4, 6)), tokens, name, SMALL)
        tiles = [panels(figure, f"layers.{layer}")[0] for layer in range(3)]
        for layer, axes in enumerate(tiles):
            np.testing.assert_array_equal(drawn(axes), tokens.maps[name][layer])
        assert len({axes.images[0].get_clim() for axes in tiles}) == n_scales


def test_an_overlay_gives_each_value_one_patch_without_smoothing() -> None:
    grid, side = (3, 4), 4
    tokens, picture = image_tokens(grid), picture_of(grid, side)
    values = tokens.maps["horizontal_right"][-1]
    near, covered = placed_nearest(values, "horizontal_right", grid, picture.shape[:2])
    for y in range(12):
        for x in range(16):
            column = (x - side // 2) // side  # half a patch to the right
            assert covered[y, x] == (0 <= column < 3)
            if covered[y, x]:
                assert near[y, x] == values[y // side, column]
    overlay = map_overlay(picture, values, "horizontal_right", grid, SMALL, map_scale([tokens], "horizontal_right"))
    grey = (picture @ np.array([0.299, 0.587, 0.114])).round()
    assert np.abs(overlay[:, :2] - grey[:, :2, None]).max() <= 1
    assert np.ptp(overlay[:, 2:-2].astype(float), axis=2).max() > 20
    mask = np.zeros((12, 16), dtype=bool)
    mask[4:8, 4:12] = True
    outlined = map_overlay(picture, values, "horizontal_right", grid, SMALL, map_scale([tokens], "norms"), mask)
    assert (outlined == (0, 255, 255)).all(axis=2).sum() > 10


@pytest.mark.parametrize(
    ("name", "down", "right"), [("norms", 0, 0), ("horizontal_right", 0, 0.5), ("vertical_down", 0.5, 0)]
)
def test_a_finer_grid_is_averaged_over_the_places_of_the_coarser(name: str, down: float, right: float) -> None:
    fine, coarse = (6, 9), (4, 6)
    values = np.random.default_rng(0).normal(size=(6 - int(2 * down), 9 - int(2 * right)))
    result = on_grid(values, name, fine, coarse)
    # The same on a grid of which each place is a whole number of cells.
    cells = np.full((24, 36), np.nan)
    cells[int(4 * down) :, int(4 * right) :][: 4 * len(values), : 4 * values.shape[1]] = np.kron(
        values, np.ones((4, 4))
    )
    assert result.shape == (4 - int(2 * down), 6 - int(2 * right))
    for row in range(result.shape[0]):
        for column in range(result.shape[1]):
            top, left = int(6 * (row + down)), int(6 * (column + right))
            assert result[row, column] == pytest.approx(cells[top : top + 6, left : left + 6].mean())
    assert on_grid(values, name, fine, fine) is values


def test_a_comparison_shows_both_and_their_signed_difference() -> None:
    first = image_tokens(layers=LAYERS)
    second = image_tokens(layers=LAYERS, seed=1, extra=("token_change",), view="reconstruction")
    pictures = picture_of((4, 6)), picture_of((4, 6)) // 2
    mask = np.zeros((32, 48), dtype=bool)
    mask[8:20, 8:20] = True
    figure = comparison_figure(pictures[0], first, pictures[1], second, SMALL, (mask, mask))
    for title, name in (("horizontal (→)", "horizontal_right"), ("patch to CLS", "cls_similarity")):
        shown = panels(figure, title)
        expected = second.maps[name][-1].astype(np.float64) - first.maps[name][-1]
        for axes, values in zip(shown, (first.maps[name][-1], second.maps[name][-1], expected), strict=True):
            np.testing.assert_array_equal(drawn(axes), values)
        assert shown[0].images[0].get_clim() == shown[1].images[0].get_clim()
        low, high = shown[2].images[0].get_clim()
        assert low == -high < 0
        np.testing.assert_array_equal(difference_map(first, second, name), expected)
    (change,) = panels(figure, "1 − cosine of A, B")
    np.testing.assert_array_equal(drawn(change), second.maps["token_change"][-1])
    lines = panels(figure, "similarity")[0].lines
    assert len(lines) == 4
    assert list(lines[2].get_xdata()) == [0, 1, 2]
    assert "image against reconstruction" in said(figure)
    assert "Cyan: lesion mask." in said(figure)
    same = comparison_figure(pictures[0], first, pictures[0], replace(first, view="jpeg_q75"), SMALL)
    assert said(same).count("no difference") == 4
    assert "the same picture" in said(same)


def test_two_models_are_compared_as_far_as_they_can_be() -> None:
    first = image_tokens((6, 6), layers=LAYERS)
    second = image_tokens((9, 9), layers=("blocks.0", "blocks.1"), cls="", model="siglip", view="other_model")
    figure = comparison_figure(picture_of((6, 6)), first, picture_of((9, 9)), second, SMALL)
    text = said(figure)
    assert "6 × 6 (A) and 9 × 9 (B) patches averaged to 6 × 6" in text
    assert "norms of two models\nhave no common unit" in text
    assert "B: no CLS token" in text
    assert drawn(panels(figure, "horizontal (→)")[2]).shape == (6, 5)
    assert drawn(panels(figure, "horizontal (→)")[1]).shape == (9, 8)
    assert list(panels(figure, "effective rank")[0].lines[1].get_xdata()) == [0.5, 1]
    with pytest.raises(ConfigurationError, match=r"'norms' of .* have no difference: norms of two models have no"):
        difference_map(first, second, "norms")
    assert "averaged to 6 × 6" in said(difference_figure(first, second, "vertical_down"))
    pooled = replace(image_tokens((6, 6), view="other_model", cls="pooled"), cls_source="pooled")
    with pytest.raises(ConfigurationError, match="compared with other tokens: cls and pooled"):
        difference_map(first, pooled, "cls_similarity")
    # Half of a patch of the coarser grid is 7.5 px.
    difference_map(first, replace(second, shown=(7.0, 0.0, 90.0, 97.0)), "vertical_down")
    cropped = replace(second, shown=(8.0, 0.0, 82.0, 90.0))
    with pytest.raises(ConfigurationError, match="see different parts of the picture"):
        difference_map(first, cropped, "vertical_down")
    assert "different parts\nof the picture" in said(
        comparison_figure(picture_of((6, 6)), first, picture_of((9, 9)), cropped, SMALL)
    )
    products = replace(second, similarity_metric="dot_product")
    with pytest.raises(ConfigurationError, match="different metrics"):
        difference_map(first, products, "vertical_down")


def test_files_have_the_names_and_formats_that_the_settings_say() -> None:
    tokens, picture = image_tokens(), picture_of((4, 6))
    stems = ["horizontal_similarity", "vertical_similarity", "cls_similarity", "norms"]
    expected = ["similarity_analysis_combined.png"]
    for stem in stems:
        expected += [f"individual/{stem}.png", f"overlays/{stem}.png"]
    files = dict(token_files(picture, tokens, SMALL))
    assert list(files) == expected
    assert all(content.startswith(b"\x89PNG") for content in files.values())
    layered = image_tokens(layers=LAYERS, cls="")
    only = TokenPictures(dpi=40, format="svg", save_combined=False)
    assert [name for name, _ in islice(token_files(picture, layered, only), 3)] == [
        "individual/horizontal_similarity.svg",
        "overlays/horizontal_similarity.png",
        "layers/horizontal_similarity.svg",
    ]
    pdf = TokenPictures(dpi=40, format="pdf", save_individual=False)
    assert [name for name, _ in token_files(picture, tokens, pdf)] == ["similarity_analysis_combined.pdf"]
    none = TokenPictures(save_combined=False, save_individual=False)
    assert list(token_files(picture, tokens, none)) == []
    other = image_tokens(seed=1, view="other")
    compared = [name for name, _ in comparison_files(picture, tokens, picture, other, SMALL)]
    assert compared == ["comparison_other.png", *(f"differences_other/{stem}.png" for stem in stems)]


@pytest.mark.parametrize(("format", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF-"), ("svg", b"<?xml")])
def test_equal_figures_are_equal_files_in_every_format(format: str, start: bytes) -> None:
    files = [
        figure_bytes(single_map_figure(image_tokens(), "norms", SMALL), format, 50)  # type: ignore[arg-type]
        for _ in range(2)
    ]
    assert files[0].startswith(start)
    assert files[0] == files[1]
    assert b"CreationDate" not in files[0]
    assert b"<dc:date>" not in files[0]


@pytest.mark.parametrize("size", [(9.0, 4.0), (3.0, 2.0), (2.0, 9.0)])
def test_the_combined_figure_has_the_size_that_was_asked_for(size: tuple[float, float]) -> None:
    style = TokenPictures(figsize=size, dpi=50)
    figure = combined_figure(picture_of((4, 6)), image_tokens(layers=LAYERS), style)
    with Image.open(io.BytesIO(figure_bytes(figure, "png", 50))) as image:
        assert image.size == (round(50 * size[0]), round(50 * size[1]))
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cmap": "viridiz"}, "no colour map named 'viridiz'.*viridis"),
        ({"cmap": "§"}, "Take for example viridis"),
        ({"figsize": (0.0, 3.0)}, "figsize is .*two positive numbers"),
        ({"figsize": (4.0, float("nan"))}, "figsize is .*two positive numbers"),
        ({"dpi": 0}, "dpi is 0.*positive"),
        ({"format": "jpg"}, "format is 'jpg'.*png, pdf, svg"),
        ({"limit": -1}, "limit is -1"),
    ],
)
def test_settings_that_cannot_be_are_explained(settings: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TokenPictures(**settings)
