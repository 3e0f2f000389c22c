"""Figures of one image's token similarities: all maps at a glance, each for itself, over the image, and over layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerscope.artifacts.token_maps import ImageTokens
from layerscope.report.figure_style import SMALL, WIDTH, figure_bytes, short_name
from layerscope.report.figures_reconstruction import shown
from layerscope.report.heat_maps import Mask, outlined, resized_mask
from layerscope.report.pictures import Picture
from layerscope.report.sentences import short, significant
from layerscope.report.token_layer_curves import CURVES, curve_panels, draw_curves, has_bands
from layerscope.report.token_layers import layer_tails
from layerscope.report.token_panels import (
    BAR,
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
    draw_numbers,
    draw_outline,
    draw_picture,
    draw_region,
    fitted,
    high_norm,
    map_scale,
    mark_high_norms,
    mean_and_spread,
    scale_of,
)
from layerscope.report.token_places import MAPS, Map, absence, last_map, map_title, placed_nearest, shown_maps
from layerscope.report.token_style import TokenPictures
from layerscope.types import PATCH_REFERENCES

_FIRST = ("horizontal_right", "vertical_down", "cls_similarity")
"""Maps whose panel is there even if the map is not: it says why."""

_ELSEWHERE = ("norm_max", "high_norm_share", "neighbour_similarity", *PATCH_REFERENCES)
"""Figures that stand among the numbers in other words, or over the maps."""

_WORDS = {"norm_median": "median norm"}

_COVER = 0.5
"""How much of the greyed image a map's colours cover."""

_TALLEST, _SMALLEST, _LOWEST = 2.7, 1.5, 0.7
"""Inches of a map's longer side: at most, and before everything gets smaller in a small figure; of a row at least."""

_SPREAD = "Mean ± standard deviation over places."

_OVERLAY = 512
"""Pixels: pictures under an overlay are enlarged by a whole factor up to about this."""


class _Grid(NamedTuple):
    """columns of cells; width and height of a panel, and height of a row of panels, in inches of the page."""

    columns: int
    width: float
    height: float
    row: float
    page: Page


def combined_figure(picture: Picture, tokens: ImageTokens, style: TokenPictures, mask: Mask | None = None) -> Figure:
    """All maps of the last layer at a glance, and with several layers the curves over them.

    Maps of neighbours share one scale, the others have one each; of norms it is that of the tokens that are not marked
    as high. Scales end at the 1st and 99th percentile, and a pointed end of a colour bar says that there is more.

    Args:
        picture: uint8 (H, W, 3), what the model saw; the patches cover it.
        mask: bool (H, W) of a lesion, outlined on all maps.
    """
    names = [name for name in MAPS if name in _FIRST or name in tokens.maps]
    panels = {} if len(tokens.layers) == 1 else curve_panels(tokens)
    ratio = picture.shape[0] / picture.shape[1]
    notes = _notes(tokens, mask)
    below = FOOT + LINE * len(notes) + (CURVES if panels else 0.0)
    grid = _arranged(len(names) + 2, ratio, below, style.figsize)
    page = grid.page
    page.heading(f"Token similarity of {short_name(tokens.id, 48)}", [" · ".join(described(tokens))], notes)
    high = high_norm(tokens)
    for place, name in enumerate(("picture", *names, "numbers")):
        row, column = divmod(place, grid.columns)
        left = EDGE + column * (page.width - 2 * EDGE) / grid.columns
        axes = page.axes(left, HEAD + row * (NAME + grid.row + GAP) + NAME, grid.width, grid.height)
        if name == "picture":
            rows, columns = tokens.grid_size
            page.name(axes, "what the model saw", f"{rows} × {columns} patches of {_patch_size(picture, tokens)} px")
            draw_picture(page, axes, picture, tokens.grid_size, marked=high)
            for region in ("seed_similarity", "box_similarity"):
                draw_region(axes, tokens, region)
            draw_outline(axes, mask, tokens.grid_size)
        elif name == "numbers":
            box, height = axes.get_position(), grid.row / page.height
            width = ((page.width - 2 * EDGE) / grid.columns - 0.15) / page.width
            axes.set_position((box.x0, box.y1 - height, width, height))
            page.name(axes, "in numbers", "")
            draw_numbers(page, axes, _numbers(tokens))
        else:
            _map_panel(page, axes, tokens, name, style, mask)
    if panels:
        draw_curves(page, page.height - below, [panels], [tokens.layers])
    return page.figure


def single_map_figure(tokens: ImageTokens, name: str, style: TokenPictures) -> Figure:
    """One map of the last layer with rows and columns of patches along its sides.

    Raises:
        ConfigurationError: there is no such map.
    """
    last_map(tokens, name)
    rows, columns = tokens.grid_size
    width, height = fitted(3.6, 3.6, rows / columns)
    left = 0.52
    page = Page.of(max(left + width + BAR + 0.1, 4.9), 0.8 + NAME + height + 0.4 + FOOT)
    page.heading(short_name(tokens.id, 42), described(tokens))
    axes = page.axes(left, 0.72 + NAME, width, height)
    _map_panel(page, axes, tokens, name, style, None)
    for side, count in ((axes.xaxis, columns), (axes.yaxis, rows)):
        step = max(1, -(-count // 8))
        side.set_ticks(np.arange(0, count, step) + 0.5, [str(place) for place in range(0, count, step)])
    axes.tick_params(labelsize=SMALL, length=2, width=0.6)
    axes.set_xlabel("column of patches", fontsize=SMALL, labelpad=2)
    axes.set_ylabel("row of patches", fontsize=SMALL, labelpad=2)
    return page.figure


def map_overlay(
    picture: Picture,
    values: Map,
    name: str,
    grid: tuple[int, int],
    style: TokenPictures,
    scale: Scale,
    mask: Mask | None = None,
) -> Picture:
    """A map's colours over the greyed picture, mask outlined.

    Each value covers the area of one patch, evenly: a token says nothing about where inside its patch something is, and
    smoothing would draw edges that nobody measured. A map of neighbours stands half a patch further, between the two
    patches; where there is no value, the picture stays grey.

    Args:
        picture: uint8 (H, W, 3).
        values: (h, w), a map of the kind ``name`` (``token_places.MAPS``) on a grid of (R, C) patches.
        scale: values of the colours' ends.
        mask: bool (H, W).
    """
    grey = (picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114]))[..., None]
    near, covered = placed_nearest(values, name, grid, picture.shape[:2])
    colours = matplotlib.colormaps[style.cmap](scale.norm(near))[..., :3] * 255
    strength = _COVER * covered[..., None]
    mixed = ((1 - strength) * grey + strength * np.asarray(colours)).round().astype(np.uint8)
    return outlined(mixed, mask)


def overlay_figure(
    picture: Picture, tokens: ImageTokens, name: str, style: TokenPictures, mask: Mask | None = None
) -> Figure:
    """``map_overlay`` of the last layer with its colour bar."""
    values = last_map(tokens, name)
    factor = max(1, _OVERLAY // max(picture.shape[:2]))
    size = (picture.shape[0] * factor, picture.shape[1] * factor)
    larger = None if mask is None else resized_mask(mask, size)
    scale = map_scale([tokens], name)
    drawn = map_overlay(shown(picture, size), values, name, tokens.grid_size, style, scale, larger)
    width, height = fitted(3.6, 3.6, size[0] / size[1])
    page = Page.of(max(EDGE + width + BAR + 0.1, 4.9), 0.8 + NAME + height + GAP + FOOT + LINE)
    page.heading(
        short_name(tokens.id, 42), described(tokens), ["Half colour, half greyed picture: paler than the bar."]
    )
    axes = page.axes(EDGE, 0.72 + NAME, width, height)
    why = absence(tokens, name).replace("\n", " ")
    page.name(axes, f"{map_title(tokens, name)}, over the image", why or mean_and_spread(values))
    draw_picture(page, axes, drawn, tokens.grid_size, lines=False)
    draw_region(axes, tokens, name)
    if not why:
        draw_bar(page, axes, scale, style.cmap)
    return page.figure


def layer_sheet(
    picture: Picture, tokens: ImageTokens, name: str, style: TokenPictures, mask: Mask | None = None
) -> Figure:
    """The maps of one kind in all layers, the picture first.

    Similarities by cosine have one scale in all layers; dot products and norms, which grow from layer to layer, have
    one each.
    """
    last_map(tokens, name)
    maps, names = tokens.maps[name], layer_tails(tokens.layers)
    shared = scale_of(maps, -1, 1) if bounded(tokens, name) else None
    columns, room = (5, BAR) if shared else (4, 0.0)
    cell = (WIDTH - 2 * EDGE - room) / columns
    width, height = fitted(cell - (0.15 if shared else BAR), _TALLEST, picture.shape[0] / picture.shape[1])
    rows = -(-(len(maps) + 1) // columns)
    notes = [_SPREAD + (" One scale in all layers." if shared else " Each layer has its own scale.")]
    page = Page.of(WIDTH, HEAD + rows * (NAME + height + GAP) + FOOT + LINE * len(notes))
    what = f"{map_title(tokens, name)} in {len(maps)} layers"
    page.heading(f"{short_name(tokens.id, 40)}: {what}", [" · ".join(described(tokens, ""))], notes)
    for place in range(len(maps) + 1):
        row, column = divmod(place, columns)
        axes = page.axes(EDGE + column * cell, HEAD + row * (NAME + height + GAP) + NAME, width, height)
        if place == 0:
            page.name(axes, "the picture", "")
            draw_picture(page, axes, picture, tokens.grid_size, lines=False)
            draw_outline(axes, mask, tokens.grid_size)
            continue
        values = maps[place - 1]
        page.name(axes, short_name(names[place - 1], 17), mean_and_spread(values))
        if values.size == 0:
            draw_absence(axes, page, absence(tokens, name))
            continue
        scale = shared or map_scale([tokens], name, place - 1)
        draw_map(page, axes, values, name, tokens.grid_size, scale, style.cmap)
        if not shared or place == min(columns - 1, len(maps)):
            draw_bar(page, axes, scale, style.cmap)
        if name == "norms" and "high_norm" in tokens.maps:
            mark_high_norms(page, axes, tokens.maps["high_norm"][place - 1], tokens.grid_size)
        draw_region(axes, tokens, name)
        draw_outline(axes, mask, tokens.grid_size)
    return page.figure


def token_files(
    picture: Picture, tokens: ImageTokens, style: TokenPictures, mask: Mask | None = None
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of one image's pictures, one after the other.

    ``similarity_analysis_combined.png``; ``individual/horizontal_similarity.png`` and so on for every map that exists,
    ``overlays/`` with the same names, always PNG, and with several layers ``layers/``. ``style`` says which.
    """

    def file(figure: Figure) -> bytes:
        return figure_bytes(figure, style.format, style.dpi)

    if style.save_combined:
        yield f"similarity_analysis_combined.{style.format}", file(combined_figure(picture, tokens, style, mask))
    if not style.save_individual:
        return
    for name in shown_maps(tokens):
        stem = MAPS[name].file
        yield f"individual/{stem}.{style.format}", file(single_map_figure(tokens, name, style))
        overlay = overlay_figure(picture, tokens, name, style, mask)
        yield f"overlays/{stem}.png", figure_bytes(overlay, "png", style.dpi)
        if len(tokens.layers) > 1:
            yield f"layers/{stem}.{style.format}", file(layer_sheet(picture, tokens, name, style, mask))


def _arranged(count: int, ratio: float, below: float, figsize: tuple[float, float] | None) -> _Grid:
    """Cells for panels of height / width ``ratio`` and ``below`` inches below them.

    Without a size: two columns of a journal page, three panels beside each other. With one: as many columns as make the
    panels largest, and all smaller, text included, where even these would be too small.
    """
    if figsize is None:
        columns = 2 if ratio < 0.4 else 3
        width, height = fitted((WIDTH - 2 * EDGE) / columns - BAR, _TALLEST, ratio)
        row = max(height, _LOWEST)
        full = HEAD + -(-count // columns) * (NAME + row + GAP) + below
        return _Grid(columns, width, height, row, Page.of(WIDTH, full))
    least = max(fitted(_SMALLEST, _SMALLEST, ratio)[1], _LOWEST)

    def in_columns(columns: int) -> _Grid:
        rows = -(-count // columns)
        wide, tall = figsize
        needed = max(columns * (_SMALLEST + BAR) + 2 * EDGE, 6.2)  # the notes at the foot need 6 inches
        scale = min(1.0, wide / needed, tall / (HEAD + rows * (NAME + least + GAP) + below))
        page = Page.of(wide / scale, tall / scale, scale)
        room = (page.height - HEAD - below) / rows - NAME - GAP
        width, height = fitted((page.width - 2 * EDGE) / columns - BAR, room, ratio)
        return _Grid(columns, width, height, max(height, _LOWEST), page)

    return max(map(in_columns, range(1, count + 1)), key=lambda grid: grid.width * grid.page.scale)


def _map_panel(page: Page, axes: Axes, tokens: ImageTokens, name: str, style: TokenPictures, mask: Mask | None) -> None:
    """One map of the last layer with its title, numbers and colour bar, or why there is none."""
    why = absence(tokens, name)
    if why:
        page.name(axes, map_title(tokens, name), "")
        draw_absence(axes, page, why)
        return
    values = last_map(tokens, name)
    page.name(axes, map_title(tokens, name), mean_and_spread(values))
    scale = map_scale([tokens], name)
    draw_map(page, axes, values, name, tokens.grid_size, scale, style.cmap)
    draw_bar(page, axes, scale, style.cmap)
    high = high_norm(tokens)
    if name == "norms" and high is not None:
        mark_high_norms(page, axes, high, tokens.grid_size)
    draw_region(axes, tokens, name)
    draw_outline(axes, mask, tokens.grid_size)


def _patch_size(picture: Picture, tokens: ImageTokens) -> str:
    sides = [picture.shape[side] / tokens.grid_size[side] for side in (0, 1)]
    return " × ".join(f"{side:.3g}" for side in (sides[:1] if sides[0] == sides[1] else sides))


def _numbers(tokens: ImageTokens) -> list[tuple[str, str]]:
    """What stands beside the maps in words: high norms, prefix norms, then the figures of the last layer."""
    rows = []
    if "high_norm" in tokens.maps:
        count, whole = int(tokens.maps["high_norm"][-1].sum()), tokens.maps["high_norm"][-1].size
        rows.append(("high-norm tokens", f"{count} of {whole}"))
    if "norms" in tokens.maps:
        rows.append(("largest norm", significant(float(tokens.maps["norms"][-1].max()))))
    for kind in dict.fromkeys(tokens.prefix):
        norms = [norm for one, norm in zip(tokens.prefix, tokens.prefix_norms[-1]) if one == kind]
        label = {"cls": "CLS"}.get(kind, kind)
        rows.append(
            (f"norm of {label}" + f" ({len(norms)}, mean)" * (len(norms) > 1), significant(float(np.mean(norms))))
        )
    figures = {name: values for name, values in tokens.figures.items() if name not in _ELSEWHERE}
    for name, values in figures.items():
        value = float(values[-1])
        if not np.isfinite(value):
            continue  # of a mask, where there is none
        text = short(value, 3) if abs(value) < 1 else significant(value)
        rows.append((_WORDS.get(name, short_name(name.replace("_", " "), 28)), text))
    return rows


def _notes(tokens: ImageTokens, mask: Mask | None) -> list[str]:
    """Lines for the foot: what marks mean, and which layers the curves are over."""
    marks = [_SPREAD]
    marks += ["Dots, and frames on the picture: high-norm tokens."] if high_norm(tokens) is not None else []
    marks += ["White line: what is compared with."] if {"seed_patches", "box_patches"} & set(tokens.maps) else []
    marks += ["Cyan: lesion mask."] if mask is not None and mask.any() else []
    if len(tokens.layers) == 1:
        return [" ".join(marks)]
    if any(map(has_bands, curve_panels(tokens).values())):
        marks.append("Bands: 10th to 90th percentile.")
    return [" ".join(marks)]
