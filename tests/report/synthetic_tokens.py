"""Token figures of images as a run would store them: alike in the middle, a lesion's border, a VAE, a JPEG control."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from layerscope.artifacts.token_scores import TokenScores, ViewScores

FIGURES = (
    "neighbour_similarity",
    "cls_similarity",
    "norm_median",
    "norm_max",
    "high_norm_share",
    "effective_rank",
    "border_similarity",
    "inside_similarity",
    "outside_similarity",
    "border_drop",
    "shifted_border_drop",
)
LATER = (*FIGURES, "token_change", "map_correlation", "token_change_auroc", "shifted_token_change_auroc")
CHANGES = {"reconstruction": 0.05, "jpeg_q75": 0.028, "jpeg_q95": 0.012, "other": 0.55, "down2": 0.07}
"""Mean token change in the last layer."""


def token_scores(
    n: int = 24,
    layers: int = 12,
    views: Sequence[str] = ("reconstruction", "jpeg_q75"),
    masks: bool = True,
    cls: bool = True,
    other_layers: int = 9,
    seed: int = 0,
) -> TokenScores:
    """N images; each has its own level, common to all layers and views, and noise of its own in each."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, 1, size=(n, 1))
    base = _figures(rng, own, layers, masks, cls)
    names = [f"encoder.layers.{layer}" for layer in range(layers)]
    known = {"prefix": ("cls",), "cls_source": "cls"} if cls else {"prefix": (), "cls_source": ""}
    made = [ViewScores("image", "clip", names, list(FIGURES), base, **known)]  # type: ignore[arg-type]
    for view in views:
        if view == "other_model":
            other = [f"blocks.{layer}" for layer in range(other_layers)]
            values = _figures(rng, own, other_layers, masks, cls)
            values[:, :, 0] -= 0.1
            made.append(ViewScores(view, "dinov2", other, list(FIGURES), values, **known))  # type: ignore[arg-type]
            continue
        size = CHANGES[view] * np.linspace(0.35, 1, layers) * (1 + 0.9 * np.exp(-((depth(layers) - 0.7) ** 2) / 0.02))
        size /= size[-1] / CHANGES[view]
        change = np.clip(size * np.exp(0.3 * own + rng.normal(0, 0.1, size=(n, layers))), 0, 1)
        values = base + 0.4 * change[:, :, None] * np.array([-1, -0.5, 3, 8, 0, 12, -1, -0.5, -0.5, 0.3, 0])
        hit = np.clip(0.5 + 0.2 * masks + rng.normal(0, 0.06, size=(n, layers)), 0, 1)
        chance = np.clip(0.5 + rng.normal(0, 0.04, size=(n, layers)), 0, 1)
        extra = np.stack([change, 1 - 0.6 * change, hit, chance], axis=2)
        if not masks:
            extra[:, :, 2:] = np.nan
        values = np.concatenate([values, extra], axis=2)
        made.append(ViewScores(view, "clip", names, list(LATER), values, **known))  # type: ignore[arg-type]
    with_mask = np.ones(n, dtype=np.bool_) if masks else None
    return TokenScores(id=[f"case {row:02d}" for row in range(n)], group=None, views=made, with_mask=with_mask)


def depth(layers: int) -> np.ndarray:
    return np.linspace(0, 1, layers) if layers > 1 else np.ones(1)


def _figures(rng: np.random.Generator, own: np.ndarray, layers: int, masks: bool, cls: bool) -> np.ndarray:
    at, shape = depth(layers), (len(own), layers)

    def around(mean: np.ndarray, common: float, noise: float) -> np.ndarray:
        return mean + common * own + rng.normal(0, noise, size=shape)

    similar = around(0.55 + 0.35 * np.sin(2.4 * at), 0.03, 0.01)
    alike = around(0.12 + 0.3 * at**2, 0.03, 0.02)
    norm = np.exp(around(2.2 + 1.3 * at, 0.05, 0.03))
    largest = norm * np.exp(around(0.3 + 2.0 * (at > 0.6), 0.1, 0.1))
    share = np.clip(around(0.02 * (at > 0.6), 0, 0.004), 0, 1)
    rank = np.exp(around(4.6 - 1.1 * at, 0.1, 0.03))
    drop = around(0.02 + 0.14 * at, 0.02, 0.03)
    inside = similar + rng.normal(0, 0.01, size=shape)
    shifted = around(0.012 * np.ones(layers), 0.005, 0.02)
    values = np.stack(
        [similar, alike, norm, largest, share, rank, inside - drop, inside, similar, drop, shifted], axis=2
    )
    if not cls:
        values[:, :, 1] = np.nan
    if not masks:
        values[:, :, 6:] = np.nan
    return values


def changed_tokens(scores: TokenScores, **fields: Any) -> TokenScores:
    return dataclasses.replace(scores, **fields)
