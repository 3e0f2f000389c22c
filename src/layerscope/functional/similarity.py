"""Cosine similarity of two versions of an image in a teacher's feature space, per sample.

One original is compared with dozens of versions, so its norms may be given instead of being computed each time; on a
CPU these passes over large feature maps are what the comparison costs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def vector_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of embeddings: (B, D), (B, D) to (B,) in [-1, 1]. Two zero vectors count as equal: 1."""
    a, b = a.float(), b.float()
    return _cosine((a * b).sum(dim=1), channel_norm(a), channel_norm(b))


def pooled(a: Tensor) -> Tensor:
    """Spatial mean of feature maps, (B, C, h, w) to (B, C); ``vector_cosine`` of it is blind to where things are."""
    return a.float().mean(dim=(2, 3))


def position_cosine(a: Tensor, b: Tensor, norm_a: Tensor | None = None) -> Tensor:
    """Mean over positions of the cosine across channels: (B, C, h, w) twice to (B,). Sees local change.

    norm_a: ``channel_norm(a)`` if it is known already.
    """
    a, b = a.float(), b.float()
    norm_a = channel_norm(a) if norm_a is None else norm_a
    return _cosine((a * b).sum(dim=1), norm_a, channel_norm(b)).mean(dim=(1, 2))


def channel_norm(a: Tensor) -> Tensor:
    """Euclidean norm across dimension 1 in float32."""
    return torch.linalg.vector_norm(a.float(), dim=1)


def _cosine(dot: Tensor, norm_a: Tensor, norm_b: Tensor) -> Tensor:
    """Where both are zero nothing has changed: 1. Where one is zero: 0."""
    product = norm_a * norm_b
    cosine = (dot / product.clamp_min(torch.finfo(product.dtype).tiny)).clamp(-1, 1)
    return cosine.masked_fill((norm_a == 0) & (norm_b == 0), 1.0)
