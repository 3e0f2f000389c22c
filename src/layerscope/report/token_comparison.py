"""Two images, two models, or an image and its reconstruction: the maps of both and what differs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerscope.artifacts.names import safe_file_name
from layerscope.artifacts.token_maps import NEIGHBOURS, ImageTokens
from layerscope.errors import ConfigurationError
from layerscope.report.figure_style import SMALL, figure_bytes, short_name
from layerscope.report.heat_maps import Mask
from layerscope.report.pictures import Picture, signed_difference, signed_difference_scale
from layerscope.report.sentences import MINUS
from layerscope.report.token_layer_curves import CURVES, curve_panels, draw_curves
from layerscope.report.token_panels import (
    BAR,
    DIFFERENCES,
    EDGE,
    FOOT,
    GAP,
    HEAD,
    LINE,
    NAME,
    Page,
    Scale,
    bounded,
    described,
    draw_absence,
    draw_bar,
    draw_map,
    draw_outline,
    draw_picture,
    fitted,
    high_norm,
    map_scale,
    mark_high_norms,
    mean_and_spread,
    scale_of,
    symmetric_scale,
)
from layerscope.report.token_places import (
    MAPS,
    Map,
    absence,
    common_grid,
    last_map,
    map_title,
    on_grid,
    shown_maps,
)
from layerscope.report.token_style import TokenPictures
from layerscope.report.token_views import view_words

_WIDTH, _TALLEST = 1.4, 2.0
"""Inches of a map, at most."""

_TITLES = {
    "horizontal_right": "horizontal (→)",
    "vertical_down": "vertical (↓)",
    "diagonal_down_right": "diagonal (↘)",
    "diagonal_down_left": "diagonal (↙)",
    "token_change": "1 − cosine of A, B",
}
"""Shorter than over single maps: five panels stand beside each other."""

_SAME = 1e-6
"""Similarities of equal tokens differ by this much, by rounding."""


def difference_map(first: ImageTokens, second: ImageTokens, name: str) -> Map:
    """The second's map less the first's in the last layer, float64 (h, w), as differences have their sign elsewhere.

    Where the grids differ, both are averaged to the coarser one (``token_places.on_grid``).

    Raises:
        ConfigurationError: the maps cannot be compared (``incomparable``).
    """
    if why := incomparable(first, second, name):
        raise ConfigurationError(
            f"The maps {name!r} of {first.id!r} ({first.model}) and {second.id!r} ({second.model}) have no difference: "
            f"{why}.".replace("\n", " ")
        )
    grid = common_grid(first.grid_size, second.grid_size)
    both = [on_grid(last_map(one, name), name, one.grid_size, grid).astype(np.float64) for one in (first, second)]
    return np.asarray(both[1] - both[0])


def incomparable(first: ImageTokens, second: ImageTokens, name: str) -> str:
    """Why two maps have no difference; "" where they have one."""
    whys = [absence(first, name), absence(second, name)]
    if any(whys):
        return "; ".join(dict.fromkeys(f"{side}: {why}" for side, why in zip("AB", whys) if why)).replace("; ", "\n")
    if first.similarity_metric != second.similarity_metric and name != "norms":
        return "different metrics"
    if not same_part(first, second):
        return "the models see different\nparts of the picture"
    if _two_models(first, second) and not bounded(first, name):
        return f"{'norms' if name == 'norms' else 'dot products'} of two models\nhave no common unit"
    if name == "cls_similarity" and first.cls_source != second.cls_source:
        return f"compared with other tokens:\n{first.cls_source} and {second.cls_source}"
    return ""


def same_part(first: ImageTokens, second: ImageTokens) -> bool:
    """Whether the patches of both cover the same part of the picture, to half a patch of the coarser grid.

    Two models may crop and stretch a picture each in its own way; all views of one model are of one part.
    """
    if not _two_models(first, second):
        return True
    parts = np.array([first.shown, second.shown])
    sides = parts[:, 2:] - parts[:, :2]
    patch = (sides / [[one.grid_size[1], one.grid_size[0]] for one in (first, second)]).max(axis=0)
    return bool((np.abs(parts[0] - parts[1]) <= np.tile(patch, 2) / 2).all())


def _two_models(first: ImageTokens, second: ImageTokens) -> bool:
    """Not by their names: models with random weights share one."""
    return (first.view == "other_model") != (second.view == "other_model")


def comparison_figure(
    first_picture: Picture,
    first: ImageTokens,
    second_picture: Picture,
    second: ImageTokens,
    style: TokenPictures,
    masks: tuple[Mask | None, Mask | None] = (None, None),
) -> Figure:
    """Three rows: maps of the first (A), of the second (B), and signed differences B − A, white at 0, ends ±x.

    A and B share the scale of each map, as far as their values have a common unit. Below the pictures stands the change
    of each token, where both are of one model, or else the difference of luminance. With several layers curves of both
    follow, over the layers if these have the same names, else over relative depth.

    Args:
        first_picture, second_picture: uint8 (H, W, 3), what the model saw.
        masks: of a lesion on each picture, bool (H, W), outlined in the panels of that picture.
    """
    names = [name for name in MAPS if name in {*shown_maps(first), *shown_maps(second)} - {"token_change"}]
    pair = (first, second)
    panels = [curve_panels(one) for one in pair] if max(len(one.layers) for one in pair) > 1 else []
    mask = masks[0]
    notes = _notes(first, second, mask, bool(panels))
    cell = _WIDTH + BAR
    width, height = fitted(_WIDTH, _TALLEST, first_picture.shape[0] / first_picture.shape[1])
    row_height = LINE + 0.06 + NAME + height + GAP
    below = FOOT + LINE * len(notes) + (CURVES if panels else 0.0)
    page = Page.of(max(2 * EDGE + (len(names) + 1) * cell, 7.2), HEAD - 0.1 + 3 * row_height + below)
    ids = short_name(first.id, 40) + (f" and {short_name(second.id, 40)}" if second.id != first.id else "")
    page.heading(f"Token similarity of {ids}: {view_words(first.view)} against {view_words(second.view)}", [], notes)
    shared = {name: _shared_scale(pair, name) for name in names}
    changes = _difference_scales(first, second, names)
    for row, head in enumerate(
        (*(_row_head(one, side) for one, side in zip(pair, "AB")), f"B {MINUS} A{_averaged(first, second)}")
    ):
        top = HEAD - 0.1 + row * row_height
        page.text(EDGE, top, head, SMALL)
        for column, name in enumerate(("", *names)):
            axes = page.axes(EDGE + column * cell, top + LINE + NAME, width, height)
            if row < 2:
                tokens, picture = pair[row], (first_picture, second_picture)[row]
                if not name:
                    page.name(axes, "the picture", " × ".join(map(str, tokens.grid_size)) + " patches")
                    draw_picture(page, axes, picture, tokens.grid_size, marked=high_norm(tokens))
                    draw_outline(axes, masks[row], tokens.grid_size)
                    continue
                title = _TITLES.get(name, map_title(tokens, name))
                if why := absence(tokens, name):
                    page.name(axes, title, "")
                    draw_absence(axes, page, why)
                    continue
                values = last_map(tokens, name)
                scale = shared[name] or map_scale([tokens], name)
                page.name(axes, title, mean_and_spread(values))
                draw_map(page, axes, values, name, tokens.grid_size, scale, style.cmap)
                draw_bar(page, axes, scale, style.cmap)
                if name == "norms" and (high := high_norm(tokens)) is not None:
                    mark_high_norms(page, axes, high, tokens.grid_size)
                draw_outline(axes, masks[row], tokens.grid_size)
            elif name:
                _difference_panel(page, axes, first, second, name, changes.get(name), mask)
            else:
                pictures = (first_picture, second_picture) if same_part(first, second) else None
                _change_panel(page, axes, pictures, second, style, mask)
    if panels:
        draw_curves(page, page.height - below, panels, [one.layers for one in pair])
    return page.figure


def difference_figure(first: ImageTokens, second: ImageTokens, name: str, mask: Mask | None = None) -> Figure:
    """``difference_map`` alone, with its colour bar.

    Raises:
        ConfigurationError: the maps cannot be compared.
    """
    values = difference_map(first, second, name)
    grid = common_grid(first.grid_size, second.grid_size)
    width, height = fitted(3.6, 3.6, grid[0] / grid[1])
    notes = [f"B {MINUS} A{_averaged(first, second)}.", _RED]
    page = Page.of(max(EDGE + width + BAR + 0.1, 4.8), 0.95 + NAME + height + GAP + FOOT + 2 * LINE)
    ids = first.id if first.id == second.id else f"{short_name(first.id, 20)}, {short_name(second.id, 20)}"
    lines = [f"{side}: {short_name(one.model, 34)}, {view_words(one.view)}" for side, one in zip("AB", (first, second))]
    page.heading(short_name(ids, 42), [*lines, described(first)[1]], notes)
    axes = page.axes(EDGE, 0.87 + NAME, width, height)
    _difference_panel(page, axes, first, second, name, symmetric_scale([values]), mask, MAPS[name].title)
    return page.figure


def comparison_files(
    first_picture: Picture,
    first: ImageTokens,
    second_picture: Picture,
    second: ImageTokens,
    style: TokenPictures,
    masks: tuple[Mask | None, Mask | None] = (None, None),
) -> Iterator[tuple[str, bytes]]:
    """Names and contents: ``comparison_VIEW.png`` of the second's view, and ``differences_VIEW/`` with every map."""
    view = safe_file_name(second.view)
    if style.save_combined:
        figure = comparison_figure(first_picture, first, second_picture, second, style, masks)
        yield f"comparison_{view}.{style.format}", figure_bytes(figure, style.format, style.dpi)
    if not style.save_individual:
        return
    for name in shown_maps(first):
        if name != "token_change" and not incomparable(first, second, name):
            figure = difference_figure(first, second, name, masks[0])
            file = f"differences_{view}/{MAPS[name].file}.{style.format}"
            yield file, figure_bytes(figure, style.format, style.dpi)


_RED = "Red: B is higher; blue: A is higher; white: alike."


def _row_head(tokens: ImageTokens, side: str) -> str:
    """Whose maps a row shows."""
    return f"{side}: {short_name(tokens.id, 30)} · " + " · ".join(described(tokens))


def _shared_scale(pair: tuple[ImageTokens, ImageTokens], name: str) -> Scale | None:
    """The scale of both; None where their values have no common unit."""
    if _two_models(*pair) and not all(bounded(one, name) for one in pair):
        return None
    return map_scale(pair, name)


def _difference_scales(first: ImageTokens, second: ImageTokens, names: list[str]) -> dict[str, Scale]:
    """Of the maps that can be compared; neighbours share one."""
    maps = {name: difference_map(first, second, name) for name in names if not incomparable(first, second, name)}
    near = symmetric_scale([values for name, values in maps.items() if name in NEIGHBOURS])
    return {name: near if name in NEIGHBOURS else symmetric_scale([values]) for name, values in maps.items()}


def _difference_panel(
    page: Page,
    axes: Axes,
    first: ImageTokens,
    second: ImageTokens,
    name: str,
    scale: Scale | None,
    mask: Mask | None,
    title: str = "",
) -> None:
    title = title or _TITLES.get(name, map_title(first, name))
    if scale is None:
        page.name(axes, title, "")
        draw_absence(axes, page, incomparable(first, second, name))
        return
    values, grid = difference_map(first, second, name), common_grid(first.grid_size, second.grid_size)
    alike = not np.abs(values).max(initial=0) > _SAME
    page.name(axes, title, "no difference" if alike else mean_and_spread(values, sign=True))
    draw_map(page, axes, values, name, grid, scale, DIFFERENCES)
    draw_bar(page, axes, scale, DIFFERENCES)
    draw_outline(axes, mask, grid)


def _change_panel(
    page: Page,
    axes: Axes,
    pictures: tuple[Picture, Picture] | None,
    second: ImageTokens,
    style: TokenPictures,
    mask: Mask | None,
) -> None:
    """Below the pictures, None where they show different parts: the change of each token, else that of the pixels."""
    grid = second.grid_size
    if "token_change" in second.maps:
        values = last_map(second, "token_change")
        scale = scale_of([values], 0, 2)
        page.name(axes, _TITLES["token_change"], mean_and_spread(values))
        draw_map(page, axes, values, "token_change", grid, scale, style.cmap)
        draw_bar(page, axes, scale, style.cmap)
        draw_outline(axes, mask, grid)
        return
    page.name(axes, "luminance", "")
    if pictures is None:
        draw_absence(axes, page, "different parts\nof the picture")
        return
    first_picture, second_picture = pictures
    if first_picture.shape != second_picture.shape:
        draw_absence(axes, page, "pictures of\ndifferent sizes")
    elif np.array_equal(first_picture, second_picture):
        draw_absence(axes, page, "the same picture")
    else:
        limit = signed_difference_scale([(first_picture, second_picture)])
        page.name(axes, "luminance", f"±{limit:.0f} of 255 levels")
        draw_picture(page, axes, signed_difference(first_picture, second_picture, limit), grid, lines=False)
        draw_bar(page, axes, Scale(-limit, limit), DIFFERENCES)
        draw_outline(axes, mask, grid)


def _notes(first: ImageTokens, second: ImageTokens, mask: Mask | None, with_curves: bool) -> list[str]:
    marks = [_RED, "Mean ± standard deviation over places."]
    if high_norm(first) is not None or high_norm(second) is not None:
        marks.append("Dots, and frames on the picture: high-norm tokens.")
    marks += ["Cyan: lesion mask."] if mask is not None and mask.any() else []
    notes = [" ".join(marks)]
    if first.grid_size != second.grid_size:
        notes.append("The grids differ: neighbours lie closer to each other in the finer one.")
    if with_curves:
        words = "" if first.layers == second.layers else " Depth 1: the last chosen layer."
        notes.append(f"Curves: A filled, solid; B open, dashed.{words}")
    return notes


def _averaged(first: ImageTokens, second: ImageTokens) -> str:
    """What was done to maps of different grids, in words; "" for equal ones."""
    if first.grid_size == second.grid_size:
        return ""
    common = common_grid(first.grid_size, second.grid_size)
    sizes = [" × ".join(map(str, grid)) for grid in (first.grid_size, second.grid_size, common)]
    return f", {sizes[0]} (A) and {sizes[1]} (B) patches averaged to {sizes[2]}"
