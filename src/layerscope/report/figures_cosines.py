"""How far the teacher's features move, stage by stage. Made from table rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from layerscope.report.figure_rows import Row, bar_lengths, noise_axis, noise_names
from layerscope.report.figure_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MEDIUM,
    ORANGE,
    PURPLE,
    SKY,
    SMALL,
    VERMILION,
    WIDTH,
    plain_axes,
    plain_text,
    quiet_grid,
)
from layerscope.report.rows import ALL
from layerscope.report.sentences import MINUS

# Kind of feature: its name, where it stands beside its stage, and its look.
_KINDS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "pooled": ("pooled maps", -0.16, {"color": BLUE, "marker": "o"}),
    "position": ("per position", 0.16, {"color": VERMILION, "marker": "s"}),
    "": ("embedding", 0.0, {"color": BLACK, "marker": "D"}),
}
_STAGES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (VERMILION, "v"), (SKY, "P"), (PURPLE, "X"))


def cosine_figure(rows: Sequence[Row]) -> Figure | None:
    """How far embedding and stages move: cosines at recon beside their null level, and normalised over noise.

    rows: agreement.csv. None where the teacher shows no features.
    """
    found = [row for row in rows if row["label"] == ALL and row["draw"] in (None, "mean")]
    metrics = list(
        dict.fromkeys(
            row["metric"] for row in found if row["condition"] == "recon" and not row["metric"].endswith("_normalised")
        )
    )
    if not metrics:
        return None
    cells = {(row["condition"], row["metric"]): row for row in found}
    sources = list(dict.fromkeys(_source(metric) for metric in metrics))
    # The embedding lies behind the last stage.
    sources.sort(key=lambda source: source == "embedding")
    noise = noise_names(found)
    figure = Figure(figsize=(WIDTH, 6.4 if noise else 3.6), layout="constrained")
    grid = figure.add_gridspec(2 if noise else 1, 2)
    raw, normalised = (figure.add_subplot(grid[0, column]) for column in (0, 1))
    names = [plain_text(source) for source in sources]
    for panel, heading in ((raw, "cosine"), (normalised, "normalised cosine")):
        plain_axes(panel)
        quiet_grid(panel, "y")
        panel.set_xticks(range(len(sources)), names, rotation=35, ha="right")
        panel.set_xlim(-0.5, len(sources) - 0.5)
        panel.set_ylabel(f"{heading} to the original")
        panel.yaxis.set_major_formatter(FuncFormatter(_cosine_text))
    raw.set_title("reconstruction, shallow to deep", fontsize=MEDIUM)
    normalised.set_title("(cosine − null) / (1 − null)", fontsize=MEDIUM)
    normalised.axhline(0, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    handles: list[Any] = []
    for kind, (name, shift, look) in _KINDS.items():
        own = [metric for metric in metrics if _kind(metric) == kind]
        for metric in own:
            x = sources.index(_source(metric)) + shift
            null = cells["null", metric]["value"]
            raw.plot([x - 0.13, x + 0.13], [null, null], color=look["color"], linewidth=2, alpha=0.6)
            for panel, shown in ((raw, metric), (normalised, f"{metric}_normalised")):
                row = cells["recon", shown]
                y = np.array([row["value"]])
                panel.errorbar([x], y, bar_lengths(y, [row["ci_lo"]], [row["ci_hi"]]), markersize=5.5, **look)
        if own:
            handles.append(Line2D([], [], markersize=5.5, linestyle="none", label=name, **look))
    bottom, top = normalised.get_ylim()
    normalised.set_ylim(min(bottom, -0.05), max(top, 0.05))
    handles += [
        Line2D([], [], color=GREY, linewidth=2, label="null: pairs of different originals"),
        Line2D([], [], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), label="0: as unlike as different originals"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    if noise:
        below = figure.add_subplot(grid[1, :])
        plain_axes(below)
        _cosines_over_noise(below, cells, metrics, sources, noise)
    return figure


def _cosines_over_noise(
    panel: Axes,
    cells: Mapping[tuple[str, str], Row],
    metrics: Sequence[str],
    sources: Sequence[str],
    noise: Sequence[str],
) -> None:
    """Normalised cosines per position, and of the embedding, against log-SNR; zero is the level of other images.

    Pooled maps are left to the table: different originals are so alike there that (cos − null)/(1 − null) runs away.
    """
    quiet_grid(panel, "y")
    panel.axhline(0, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    for place, source in enumerate(sources):
        metric = next(m for m in metrics if _source(m) == source and _kind(m) in ("position", ""))
        across = [cells[name, f"{metric}_normalised"] for name in noise]
        colour, marker = (BLACK, "D") if source == "embedding" else _STAGES[place % len(_STAGES)]
        panel.plot(
            [row["log_snr"] for row in across],
            [row["value"] for row in across],
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.5,
            # A teacher with more stages than colours: the second round is dashed.
            linestyle="-" if place < len(_STAGES) else (0, (4, 2)),
            label=plain_text(source),
        )
    first = f"{metrics[0]}_normalised"
    noise_axis(panel, [(cells[name, first]["log_snr"], int(cells[name, first]["t"])) for name in noise])
    panel.set_xlabel("log-SNR of the latent (nats); more noise →")
    panel.legend(fontsize=SMALL, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    panel.set_ylabel("normalised cosine, per position")
    panel.yaxis.set_major_formatter(FuncFormatter(_cosine_text))


def _cosine_text(value: float, _: int | None = None) -> str:
    return "0" if abs(value) < 1e-9 else f"{value:.2g}".replace("-", MINUS).replace("0.", ".", 1)


def _source(metric: str) -> str:
    return metric.removesuffix("_cosine").removesuffix(".pooled").removesuffix(".position")


def _kind(metric: str) -> str:
    name = metric.removesuffix("_cosine")
    return "pooled" if name.endswith(".pooled") else "position" if name.endswith(".position") else ""
