"""The curves of a training, from the rows of its history alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from layerscope.artifacts import HISTORY_COLUMNS
from layerscope.report.figure_style import (
    BLUE,
    GREEN,
    GREY,
    MEDIUM,
    ORANGE,
    PURPLE,
    SMALL,
    VERMILION,
    WIDTH,
    plain_axes,
    plain_text,
    quiet_grid,
    short_name,
)

Row = Mapping[str, Any]
Curve = tuple[list[int], list[float]]

_BANDS, _RATE = "error by wavelength", "learning rate"
_TITLES = {
    "loss": "loss",
    "l1": "mean absolute error, of [−1, 1]",
    "mse": "mean squared error, of [−1, 1]",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "kl_per_image": "KL (nats per image)",
    "kl": "KL, as its term has it",
    "adversarial": "generator's hinge loss",
    "adversarial_weight": "weight of the generator's loss",
    "discriminator": "discriminator's hinge loss",
    "logits_real": "logits of originals",
    "logits_fake": "logits of reconstructions",
    "feature_matching": "feature matching",
    "noisy_feature_matching": "feature matching under noise",
    "dead_channels": "dead latent channels",
    "mean_abs_delta_p": "mean |Δp| of the teacher",
    "delta_auroc": "ΔAUROC, macro",
}
_FIRST = (
    "loss",
    "l1",
    "mse",
    "psnr",
    "ssim",
    "lpips",
    "mean_abs_delta_p",
    "delta_auroc",
    _BANDS,
    "kl_per_image",
)
_LINEAR = ("psnr", "ssim", "dead_channels", "mean_abs_delta_p", "delta_auroc", _RATE)
_AT_STEP = re.compile(r"(mean_abs_delta_p|delta_auroc)_t(\d+)")
_STAGE_COLOURS = {"train": BLUE, "val": VERMILION}
_OTHER_COLOURS = (GREEN, ORANGE, PURPLE, GREY)
_COLUMNS = 3


def training_curves_figure(rows: Sequence[Row]) -> Figure | None:
    """Small multiples over epochs: one panel per quantity, training and validation in it; None without rows.

    Error by frequency band shares one panel, as do the learning rates. Figures of single latent channels
    (``..._<number>``) and KL in its second unit stay in the table. A step's last value is left out where the epoch's
    mean (``_epoch``) is there. Positive quantities that change tenfold have a logarithmic axis; bounded ones never.
    """
    panels = _panels(rows)
    if not panels:
        return None
    n_rows = math.ceil(len(panels) / _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    figure = Figure(figsize=(WIDTH * columns / _COLUMNS, 0.75 + 1.75 * n_rows), layout="constrained")
    epochs = [int(row["epoch"]) for row in rows]
    stages: dict[str, str] = {}
    for place, (quantity, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(n_rows, columns, place + 1)
        colours = _band_colours(curves) if quantity == _BANDS else _stage_colours(curves, stages)
        _draw(axes, quantity, curves, colours, epochs)
        if place + columns >= len(panels):  # nothing stands below
            axes.set_xlabel("epoch")
    _legends(figure, stages, panels.get(_BANDS, {}))
    return figure


def _panels(rows: Sequence[Row]) -> dict[str, dict[str, Curve]]:
    """Quantity to its curves, by stage, band or group, in the order in which they are shown."""
    names = dict.fromkeys(name for row in rows for name in row if name not in HISTORY_COLUMNS)
    panels: dict[str, dict[str, Curve]] = {}
    for name in names:
        points = [(int(row["epoch"]), float(row[name])) for row in rows if math.isfinite(row.get(name, math.nan))]
        if not points or (name.endswith("_step") and f"{name[:-5]}_epoch" in names):
            continue
        curve = ([epoch for epoch, _ in points], [value for _, value in points])
        stage, _, base = name.removesuffix("_epoch").removesuffix("_step").rpartition("/")
        if name == "lr" or name.startswith("lr/"):
            panels.setdefault(_RATE, {})[name] = curve
        elif base.startswith("band_"):
            panels.setdefault(_BANDS, {})[base.removeprefix("band_")] = curve
        elif base == "rec_mean":
            panels.setdefault("l1", {}).setdefault(stage, curve)  # the same figure
        elif _AT_STEP.fullmatch(base) or not re.fullmatch(r".*_\d+|kl_per_latent_element", base):
            panels.setdefault(base, {})[stage] = curve
    if _BANDS in panels:
        panels[_BANDS] = dict(sorted(panels[_BANDS].items(), key=lambda band: int(band[0].split("_")[0])))
    rank = {name: place for place, name in enumerate(_FIRST)}
    last = len(rank)
    # Noise steps follow what they are a variant of.
    order = sorted(panels, key=lambda n: (rank.get(_AT_STEP.sub(r"\1", n), last + (n == _RATE)), len(n), n))
    return {name: panels[name] for name in order}


def _draw(axes: Axes, quantity: str, curves: dict[str, Curve], colours: list[Any], epochs: list[int]) -> None:
    plain_axes(axes)
    quiet_grid(axes, "y")
    marker = "o" if len(epochs) <= 20 else ""
    for (x, y), colour in zip(curves.values(), colours):
        # A lone point among many epochs would be no line at all.
        axes.plot(x, y, color=colour, linewidth=1.4, marker="o" if len(x) == 1 else marker, markersize=3)
    axes.set_title(plain_text(short_name(_title(quantity), 36)), loc="left", fontsize=MEDIUM)
    pad = max(0.5, 0.02 * (epochs[-1] - epochs[0]))
    axes.set_xlim(epochs[0] - pad, epochs[-1] + pad)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    values = [value for _, y in curves.values() for value in y]
    if (
        quantity not in _LINEAR
        and not _AT_STEP.fullmatch(quantity)
        and min(values) > 0
        and max(values) / min(values) >= 10
    ):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=quantity == "dead_channels", min_n_ticks=1))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
        axes.yaxis.get_offset_text().set_fontsize(7)
    axes.tick_params(labelsize=7)


def _title(quantity: str) -> str:
    if under_noise := _AT_STEP.fullmatch(quantity):
        return f"{_TITLES[under_noise[1]]}, t = {under_noise[2]}"
    return _TITLES.get(quantity, quantity)


def _stage_colours(curves: dict[str, Curve], stages: dict[str, str]) -> list[str]:
    """The colour of each curve's stage, the same in all panels; ``stages`` remembers them for the legend."""
    for stage in curves:
        if stage and not stage.startswith("lr") and stage not in stages:
            others = sum(name not in _STAGE_COLOURS for name in stages)
            stages[stage] = _STAGE_COLOURS.get(stage) or _OTHER_COLOURS[others % len(_OTHER_COLOURS)]
    if all(name.startswith("lr") for name in curves):
        return [(GREY, BLUE, ORANGE, GREEN, PURPLE, VERMILION)[k % 6] for k in range(len(curves))]
    return [stages.get(stage, GREY) for stage in curves]


def _band_colours(curves: dict[str, Curve]) -> list[Any]:
    colours = matplotlib.colormaps["viridis"]
    return [colours(0.95 * k / max(1, len(curves) - 1)) for k in range(len(curves))]


def _legends(figure: Figure, stages: dict[str, str], bands: dict[str, Curve]) -> None:
    if stages:
        names = {"train": "training", "val": "validation"}
        handles = [Line2D([], [], color=c, linewidth=1.4, label=plain_text(names.get(s, s))) for s, c in stages.items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=SMALL, frameon=False)
    if bands:
        shown = [f"{name.replace('_up', ' and more').replace('_', '–')} px" for name in bands]
        colours = _band_colours(bands)
        handles = [Line2D([], [], color=c, linewidth=1.4, label=text) for c, text in zip(colours, shown)]
        figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=len(handles),
            fontsize=7,
            frameon=False,
            title="error by wavelength:",
            title_fontsize=7,
            alignment="left",
            handlelength=1.2,
            columnspacing=1.0,
        )
