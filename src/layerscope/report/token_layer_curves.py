"""Curves over layers: how alike neighbours are, how alike patches and CLS, the rank and the norms of the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from layerscope.artifacts.token_maps import ImageTokens
from layerscope.report.figure_style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SMALL,
    VERMILION,
    plain_axes,
    plain_text,
    plain_tick,
    quiet_grid,
    short_name,
)
from layerscope.report.token_layers import numbered_layers
from layerscope.report.token_panels import EDGE, Page

CURVES = 2.35
"""Inches: height of a row of curves with everything around it."""

RANK = "effective_rank"
"""Name of the figure, in ``ImageTokens.figures``."""

_LEFT, _TOP, _BELOW = 0.42, 0.36, 0.46


@dataclass(frozen=True)
class Curve:
    """name: in the legend. values: (L,), NaN where undefined. band: two (L,), its lower and upper edge, or None."""

    name: str
    colour: str
    values: NDArray[np.float64]
    band: NDArray[np.float64] | None = None


def curve_panels(tokens: ImageTokens) -> dict[str, list[Curve]]:
    """Title of a panel to its curves, (L,) each; panels without a value are left out.

    Neighbours: mean over all pairs of horizontal and vertical neighbours of a layer, with a band from their 10th to
    their 90th percentile (a standard deviation would reach beyond 1). CLS and so on: the same over patches. Norms:
    median over patches, and the largest.
    """
    panels: dict[str, list[Curve]] = {"similarity": []}
    pairs = [tokens.maps[name] for name in ("horizontal_right", "vertical_down") if name in tokens.maps]
    if sum(one.size for one in pairs):
        panels["similarity"].append(_curve("neighbours", BLUE, np.concatenate([_rows(one) for one in pairs], axis=1)))
    references = (("cls_similarity", tokens.cls_source or "cls", VERMILION), ("seed_similarity", "seed", PURPLE))
    for name, label, colour in (*references, ("box_similarity", "box", ORANGE), ("text_similarity", "text", GREEN)):
        if name in tokens.maps:
            panels["similarity"].append(_curve({"cls": "CLS"}.get(label, label), colour, _rows(tokens.maps[name])))
    if RANK in tokens.figures:
        panels["effective rank"] = [Curve("effective rank", BLACK, tokens.figures[RANK])]
    if "token_change" in tokens.maps:
        panels["token change"] = [_curve("token change", BLACK, _rows(tokens.maps["token_change"]))]
    if "norms" in tokens.maps:
        norms = _rows(tokens.maps["norms"])
        panels["token norm"] = [
            Curve("largest", VERMILION, norms.max(axis=1)),
            Curve("median", BLUE, np.median(norms, axis=1)),
        ]
    return {
        title: curves
        for title, curves in panels.items()
        if curves and any(np.isfinite(curve.values).any() for curve in curves)
    }


def _rows(values: NDArray) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)


def _curve(name: str, colour: str, values: NDArray[np.float64]) -> Curve:
    return Curve(name, colour, values.mean(axis=1), np.percentile(values, [10, 90], axis=1))


def draw_curves(
    page: Page, top: float, panels: Sequence[dict[str, list[Curve]]], layers: Sequence[Sequence[str]]
) -> None:
    """A row of panels below ``top`` inches, the first subject's curves with filled markers, the second's dashed, open.

    panels: of one or two subjects (``curve_panels``). layers: names of each; where they differ, curves stand by
    relative depth.
    """
    by_depth = any(list(one) != list(layers[0]) for one in layers)
    depths = [np.arange(1, len(one) + 1) / len(one) if by_depth else np.arange(len(one)) for one in layers]
    axis, ticks = ("relative depth", {}) if by_depth else numbered_layers(layers[0], 5)
    titles = list(dict.fromkeys(title for one in panels for title in one))
    width = (page.width - 2 * EDGE) / max(len(titles), 2)
    for place, title in enumerate(titles):
        axes = page.axes(EDGE + place * width + _LEFT, top + _TOP, width - _LEFT - 0.12, CURVES - _TOP - _BELOW - 0.1)
        for second, (one, depth) in enumerate(zip(panels, depths)):
            for curve in one.get(title, []):
                _draw(page, axes, curve, depth, second > 0, len(panels) == 1 and has_bands(one[title]))
        names = list(dict.fromkeys(curve.name for one in panels for curve in one.get(title, [])))
        _finish(page, axes, f"{title}: {names[0]}" if len(names) == 1 and names[0] != title else title)
        axes.set_xlabel(plain_text(short_name(axis, 28)), fontsize=SMALL * page.scale, labelpad=2)
        if by_depth:
            axes.xaxis.set_major_formatter(FuncFormatter(plain_tick))
        else:
            axes.set_xticks(list(ticks), list(ticks.values()))
        if title == "token norm" and _decades(axes) > 20:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(plain_tick))
            axes.minorticks_off()
        if (count := len(axes.get_legend_handles_labels()[1])) > 1:
            _make_room(axes, 0.13 * count + 0.05)
            axes.legend(
                fontsize=SMALL * page.scale,
                frameon=False,
                loc="upper right",
                handlelength=1.6,
                borderpad=0.1,
                labelspacing=0.2,
            )


def has_bands(curves: Sequence[Curve]) -> bool:
    """Whether the bands of a single subject's panel are drawn: of more than two curves no reader could tell them."""
    return len(curves) < 3 and any(curve.band is not None for curve in curves)


def _draw(page: Page, axes: Axes, curve: Curve, depth: NDArray, second: bool, with_band: bool) -> None:
    look = {"markersize": 3.2 * page.scale, "linewidth": 1.2 * page.scale, "marker": "o", "color": curve.colour}
    if second:
        axes.plot(depth, curve.values, linestyle=(0, (3, 2)), markerfacecolor="white", **look)  # type: ignore[arg-type]
        return
    axes.plot(depth, curve.values, label=curve.name, **look)  # type: ignore[arg-type]
    if with_band and curve.band is not None:
        axes.fill_between(depth, *curve.band, color=curve.colour, alpha=0.15, linewidth=0)


def _decades(axes: Axes) -> float:
    """How many times the largest drawn value is the smallest; 1 where a value is not positive."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines])
    values = values[np.isfinite(values)]
    return float(values.max() / values.min()) if len(values) and values.min() > 0 else 1.0


def _make_room(axes: Axes, share: float) -> None:
    """Raises the upper end of the axis, so that a legend takes that share of it above all curves."""
    transform = axes.yaxis.get_transform()
    bottom, top = axes.get_ylim()
    low, high = transform.transform(np.array([bottom, top]))
    # Ticks stay where the curves are: a cosine has none above 1.
    ticks = [tick for tick in axes.get_yticks() if bottom <= tick <= top]
    axes.set_ylim(top=float(transform.inverted().transform(np.array([low + (high - low) / (1 - share)]))[0]))
    axes.set_yticks(ticks)


def _finish(page: Page, axes: Axes, title: str) -> None:
    size = SMALL * page.scale
    plain_axes(axes)
    quiet_grid(axes, "y")
    axes.tick_params(labelsize=size, pad=2 * page.scale)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(plain_tick))
    axes.set_title(title, loc="left", fontsize=size, fontweight="bold", color=BLACK, pad=0.6 * size)
