"""Differences of layers as a run would store them: a bump in the middle of a decoder, a floor below it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from layerscope.artifacts.layer_scores import LayerScores

DECODER = (
    "decoder.conv_in",
    "decoder.mid_block.resnets.0",
    "decoder.mid_block.attentions.0",
    "decoder.mid_block.resnets.1",
    "decoder.up_blocks.0.resnets.0",
    "decoder.up_blocks.0.upsamplers.0",
    "decoder.up_blocks.1.resnets.0",
    "decoder.up_blocks.1.resnets.1",
    "decoder.up_blocks.1.upsamplers.0",
    "decoder.up_blocks.2.resnets.0",
    "decoder.up_blocks.2.upsamplers.0",
    "decoder.up_blocks.3.resnets.0",
    "decoder.up_blocks.3.resnets.1",
    "decoder.conv_norm_out",
    "decoder.conv_out",
)
BUMP = (0.10, 0.11, *(0.11,) * 6, 0.16, 0.22, 0.26, 0.26, 0.24, 0.22, 0.21, 0.205, 0.11, 0.11)
"""Relative L2 of input, latent, the decoder's layers and the reconstruction."""


def layer_scores(
    relative: tuple[float, ...] = BUMP,
    layer: tuple[str, ...] = ("input", "latent", *DECODER, "reconstruction"),
    n: int = 40,
    n_floor: int = 24,
    spread: float = 0.15,
    noise: float = 0.05,
    masks: bool = True,
    seed: int = 0,
) -> LayerScores:
    """A pair's difference: a common factor (``spread``) times each layer's size and own ``noise``; a flat floor."""
    rng = np.random.default_rng(seed)
    size = np.array(relative)
    layers = len(layer)

    def values(pairs: int, size: np.ndarray) -> np.ndarray:
        common = rng.normal(0, spread, size=(pairs, 1))
        share = size * np.exp(common + rng.normal(0, noise, size=(pairs, layers)))
        elements = np.array([np.prod(one) for one in shape], dtype=float)
        rms = share * np.linspace(0.5, 3.0, layers)
        columns = (rms * np.sqrt(elements), rms, share, share**2 / 2, -20 * np.log10(share))
        return np.stack(columns, axis=2)

    shape = [(4 + 4 * (place % 7), *(2 * (8 * 2 ** (4 * place // layers),))) for place in range(layers)]
    scores = values(n, size)
    floor = values(n_floor, np.full(layers, 0.7 * size.min()))
    auroc = np.clip(0.55 + 1.3 * size + rng.normal(0, 0.04, size=(n, layers)), 0, 1)
    own = np.stack([auroc**2, 1 + 12 * (auroc - 0.5), (auroc > 0.8) * 1.0, auroc, auroc**3], axis=2)
    chance = np.clip(0.5 + rng.normal(0, 0.05, size=(n, layers)), 0, 1)
    control = np.stack([chance / 10, 2 * chance, (chance > 0.6) * 1.0, chance, chance / 8], axis=2)
    return LayerScores(
        id=[f"case {place:02d}" for place in range(n)],
        group=None,
        layer=list(layer),
        shape=shape,
        module=["" if name in ("input", "latent", "reconstruction") else "ResnetBlock2D" for name in layer],
        values=scores,
        pooled=scores.mean(axis=0) if n else np.full((layers, 5), np.nan),
        cka_hsic=cka_hsic(1 - size**2 * 2, n // 4),
        cka_possible=n // 4,
        floor=floor,
        floor_id=[f"healthy {k:02d} | healthy {k + 1:02d}" for k in range(n_floor)],
        floor_kind="negatives" if n_floor else "none",
        localisation=own if masks else np.full((n, layers, 5), np.nan),
        control=control if masks else np.full((n, layers, 5), np.nan),
        mask_fraction=rng.uniform(0.02, 0.1, size=n) if masks else np.full(n, np.nan),
    )


def cka_hsic(cka: np.ndarray, groups: int, seed: int = 1) -> np.ndarray:
    """(groups, L, 3) of layers whose linear CKA (L,) over all groups is exactly what is given; groups differ."""
    rng = np.random.default_rng(seed)
    own = 3 * rng.lognormal(0, 0.4, size=(groups, len(cka), 2))
    if not groups:
        return np.empty((0, len(cka), 3))
    both = rng.lognormal(0, 0.2, size=(groups, len(cka)))
    both *= cka * np.sqrt(own.sum(axis=0).prod(axis=-1)) / both.sum(axis=0)
    return np.concatenate([both[:, :, None], own], axis=2)


def changed(scores: LayerScores, **fields: Any) -> LayerScores:
    return dataclasses.replace(scores, **fields)
