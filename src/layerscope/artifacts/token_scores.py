"""What a token diagnosis measured: one row an image, one column a layer. Everything it reports follows from this."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ViewScores:
    """One version of the images in one model.

    view: ``image``, or what it is compared with (``types.TokenView``). model: its source. layer: L names, in order.
    figure: K names. values: float64 (N, L, K), NaN where undefined or skipped.
    """

    view: str
    model: str
    layer: list[str]
    figure: list[str]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class TokenScores:
    """N images.

    id: N names, and group: patient of each, None where the data has none.
    views: the images first, then what they are compared with; one only where they are compared with nothing.
    skipped: (id, reason) of images that were not measured.
    """

    id: list[str]
    group: list[str] | None
    views: list[ViewScores]
    skipped: list[tuple[str, str]] = field(default_factory=list)
