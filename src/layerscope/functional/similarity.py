"""Cosine similarity of two versions of an image in a teacher's feature space, per sample.

One original is compared with dozens of versions, so its norms may be given instead of being computed each time; on a
CPU these passes over large feature maps are what the comparison costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def vector_cosines(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Cosines of K pairs of embeddings: K times (B, D_k), twice, to (B, K) in [-1, 1].

    Two zero vectors count as equal: 1.
    """
    a, b = [x.float() for x in a], [y.float() for y in b]
    dot = torch.stack([(x * y).sum(dim=1) for x, y in zip(a, b)], dim=1)
    norm_a, norm_b = (torch.stack([torch.linalg.vector_norm(x, dim=1) for x in one], dim=1) for one in (a, b))
    return cosine_of(dot, norm_a, norm_b)


def pooled(a: Tensor) -> Tensor:
    """Spatial mean of feature maps, (B, C, h, w) to (B, C); ``vector_cosine`` of it is blind to where things are."""
    return a.float().mean(dim=(2, 3))


def position_cosines(a: Sequence[Tensor], b: Sequence[Tensor], norms_a: Sequence[Tensor] | None = None) -> Tensor:
    """Mean over positions of the cosine across channels: K times (B, C_k, h_k, w_k), twice, to (B, K).

    Sees local change. norms_a: ``channel_norm`` of each of ``a`` if they are known already.
    """
    norms_a = [channel_norm(x) for x in a] if norms_a is None else norms_a
    dots = [(_channels_last(x) * _channels_last(y)).sum(dim=-1) for x, y in zip(a, b)]
    # One long vector of positions: a dozen small operations once instead of for each map.
    dot, norm_a, norm_b = (
        torch.cat([one.flatten(1) for one in maps], dim=1) for maps in (dots, norms_a, [channel_norm(y) for y in b])
    )
    of_map = cosine_of(dot, norm_a, norm_b).split([one[0].numel() for one in dots], dim=1)
    return torch.stack([one.mean(dim=1) for one in of_map], dim=1)


def channel_norm(a: Tensor) -> Tensor:
    """Euclidean norm across channels in float32: (B, C, h, w) to (B, h, w)."""
    return torch.linalg.vector_norm(_channels_last(a), dim=-1)


def _channels_last(a: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h, w, C) in float32, in that order in memory.

    Sums over a strided dimension are slow on a CPU (torch 2.15's vector_norm: 11.3 ms for 0.3 ms).
    """
    return a.float().movedim(1, -1).contiguous()


def cosine_of(dot: Tensor, norm_a: Tensor, norm_b: Tensor) -> Tensor:
    """Cosine of vectors whose dot products and norms are known, three tensors of one shape, in [-1, 1].

    Where both are zero nothing has changed: 1. Where one is zero: 0.
    """
    product = norm_a * norm_b
    cosine = (dot / product.clamp_min_(torch.finfo(product.dtype).tiny)).clamp_(-1, 1)
    return cosine.masked_fill_(norm_a + norm_b == 0, 1.0)
