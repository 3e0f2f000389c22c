"""What a token diagnosis measured: one row an image, one column a layer. Everything it reports follows from this."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from layerscope.types import NormStage, TokenMetric

MASK_FIGURES = (
    "border_similarity",
    "inside_similarity",
    "outside_similarity",
    "border_drop",
    "shifted_border_drop",
    "token_change_auroc",
    "shifted_token_change_auroc",
)
"""Figures that need a lesion mask."""


@dataclass(frozen=True)
class ViewScores:
    """One version of the images in one model.

    view: ``image``, or what it is compared with (``types.TokenView``). model: its source. layer: L names, in order.
    figure: K names. values: float64 (N, L, K), NaN where undefined or skipped.
    prefix: what each token before the patches is (``types.TokenLayout.prefix``).
    cls_source: what ``cls_similarity`` compares patches with: ``cls``, ``pooled``, or "" without one.
    """

    view: str
    model: str
    layer: list[str]
    figure: list[str]
    values: NDArray[np.float64]
    prefix: tuple[str, ...]
    cls_source: str


@dataclass(frozen=True)
class TokenScores:
    """N images.

    id: N names, and group: patient of each, None where the data has none.
    views: the images first, then what they are compared with; one only where they are compared with nothing.
    skipped: (id, reason) of images that were not measured.
    with_mask: bool (N,), images that have a lesion mask; None where none has.
    similarity_metric: of all similarities. norm: whether tokens were taken before or after the model's final norm.
    """

    id: list[str]
    group: list[str] | None
    views: list[ViewScores]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    with_mask: NDArray[np.bool_] | None = None
    similarity_metric: TokenMetric = "cosine"
    norm: NormStage = "before"
