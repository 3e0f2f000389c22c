"""How candidates look in every figure of a comparison, and the mark of one that was forced."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from layerscope.report.comparison.result import Comparison
from layerscope.report.figure_style import (
    BLACK,
    BLUE,
    GREEN,
    MEDIUM,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    plain_text,
    short_name,
)

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
_MARKERS = {"o": 6.0, "s": 5.5, "D": 5.2, "^": 6.5, "v": 6.5, "P": 6.8, "X": 6.8, "<": 6.5, ">": 6.5, "*": 9.0}
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))


@dataclass(frozen=True)
class Look:
    """Colour, marker with its size in points, and line style of a candidate."""

    colour: str
    marker: str
    size: float
    dashes: Any

    def mark(self, scale: float = 1.0) -> dict[str, Any]:
        """Its marker as matplotlib's ``plot`` takes it."""
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
        return {"color": self.colour, "marker": self.marker, "markersize": scale * self.size, **edge}


def looks(candidates: Sequence[str]) -> dict[str, Look]:
    """A look for each, by its place; with 7 colours and 10 markers no two of 70 are the same."""
    markers = list(_MARKERS.items())
    return {
        name: Look(
            _COLOURS[place % len(_COLOURS)],
            *markers[place % len(markers)],
            _DASHES[place // len(_COLOURS) % len(_DASHES)],
        )
        for place, name in enumerate(candidates)
    }


def candidate_names(comparison: Comparison, names: Sequence[str], length: int = 24) -> list[str]:
    """Names to show on an axis; the baseline says that it is it."""
    return [plain_text(short_name(name, length)) + " (baseline)" * (name == comparison.baseline) for name in names]


def mark_forced(figure: Figure, comparison: Comparison) -> None:
    """Says above everything that the runs are not comparable, and why; nothing where they are."""
    if not comparison.mismatches:
        return
    why = "; ".join(short_name(" ".join(reason.split()).rstrip("."), 90) for reason in comparison.mismatches[:2])
    more = len(comparison.mismatches) - 2
    why += f"; and {more} more" * (more > 0)
    # About 7 characters of 9 points fit into half an inch.
    text = textwrap.fill(f"not comparable: forced ({why})", int(13 * figure.get_figwidth()))
    figure.suptitle(
        plain_text(text), x=0.01, ha="left", fontsize=MEDIUM, color=VERMILION, fontweight="bold", linespacing=1.2
    )
