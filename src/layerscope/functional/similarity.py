"""Cosine similarity of two versions of an image in a teacher's feature space, per sample."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def vector_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of embeddings: (B, D), (B, D) to (B,) in [-1, 1]. Two zero vectors count as equal: 1."""
    return _cosine(a.float(), b.float())


def pooled_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of spatially averaged feature maps: (B, C, h, w) twice to (B,). Blind to where things are."""
    return vector_cosine(a.float().mean(dim=(2, 3)), b.float().mean(dim=(2, 3)))


def position_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean over positions of the cosine across channels: (B, C, h, w) twice to (B,). Sees local change."""
    return _cosine(a.float().flatten(2), b.float().flatten(2)).mean(dim=1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine along dimension 1. Where both are zero nothing has changed: 1, not the 0 of ``cosine_similarity``."""
    cosine = F.cosine_similarity(a, b, dim=1)
    both_zero = (a.square().sum(dim=1) == 0) & (b.square().sum(dim=1) == 0)
    return cosine.masked_fill(both_zero, 1.0)
