"""The figure of the feature matching study."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

import numpy as np
from matplotlib.lines import Line2D

from layerscope.functional.contrasts import MARGIN, Contrast
from layerscope.report.figure_style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    SMALL,
    VERMILION,
    WIDTH,
    new_figure,
    png,
    quiet_grid,
    signed_ticks,
    title,
)

_LOOKS = ((BLUE, "o"), (VERMILION, "s"), (ORANGE, "D"))


def contrast_figure(panels: Mapping[str, Mapping[str, Mapping[str, Contrast]]]) -> bytes:
    """PNG of macro AUROC differences: thick bars over images, thin ones over images and seeds, dots for the seeds.

    panels: title to contrast to condition; the last column of each ``Contrast`` is shown.
    """
    figure, axes = new_figure(WIDTH, 3.4, len(panels))
    handles = []
    for ax, (heading, contrasts) in zip(axes, panels.items()):
        title(ax, heading)
        quiet_grid(ax, "y")
        ax.axhline(0, color=GREY, linewidth=0.9, zorder=0)
        for edge in (-MARGIN, MARGIN):
            ax.axhline(edge, color=BLACK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        handles = []
        for number, ((name, by_condition), (colour, marker)) in enumerate(zip(contrasts.items(), _LOOKS)):
            point = {"marker": marker, "color": colour, "markeredgecolor": "white", "markersize": 6}
            handles.append(Line2D([], [], linewidth=1.1, label=name, **point))
            for place, one in enumerate(by_condition.values()):
                x = place + 0.26 * (number - 1)
                ax.plot([x, x], one.both[:, -1], color=colour, linewidth=1.1)
                ax.plot([x, x], one.images[:, -1], color=colour, linewidth=3.5, alpha=0.5, solid_capstyle="butt")
                ax.plot(x, one.delta[-1], **point)
                seeds = one.per_seed[:, -1]
                ax.plot(np.full(len(seeds), x + 0.1), seeds, ".", color=colour, markersize=4)
            ax.set_xticks(range(len(by_condition)), list(by_condition))
            ax.set_xlim(-0.5, len(by_condition) - 0.5)
        signed_ticks(ax, "y")
    edges = np.array([ax.get_ylim() for ax in axes])
    for ax in axes:
        ax.set_ylim(edges[:, 0].min(), edges[:, 1].max())
    axes[0].set_ylabel("Δ macro AUROC (above 0: better)")
    others = [
        Line2D([], [], color=GREY, linewidth=3.5, alpha=0.5, label="95 % over test images"),
        Line2D([], [], color=GREY, linewidth=1.1, label="95 % over images and seeds"),
        Line2D([], [], color=GREY, marker=".", linestyle="none", label="one seed"),
        Line2D([], [], color=BLACK, linewidth=0.9, linestyle=(0, (4, 3)), label="margin"),
    ]
    # The legend is filled by columns: contrasts in the first row, what the strokes mean in the second.
    handles = [handle for column in zip_longest(handles, others) for handle in column if handle is not None]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=SMALL, frameon=False)
    return png(figure)
