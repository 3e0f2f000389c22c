"""In how many directions an image's tokens spread."""

from __future__ import annotations

import torch
from torch import Tensor

from layerscope.functional.memory_blocks import samples_at_once, sum_dtype


@torch.no_grad()
def effective_rank(tokens: Tensor) -> Tensor:
    """exp of the entropy of the singular values of (B, N, D) tokens: float64 (B,), in [1, min(N, D)] (float32 on MPS).

    With σ the singular values of an image's N × D matrix, not centred, and p = σ/Σσ, it is exp(−Σ p ln p) (Roy and
    Vetterli 2007, "The effective rank: a measure of effective dimensionality"). 1 where all tokens are multiples of
    one, min(N, D) where all directions are equally strong, 0 where all tokens are zero, NaN where any is not finite.

    σ are the roots of the eigenvalues of the smaller Gram matrix in float64, a few times as fast as a singular value
    decomposition. Rounding leaves eigenvalues of up to about ε times the largest where the truth is 0, whose roots
    would count; so those below max(N, D)·ε times the largest are 0, which is σ below about 4·10⁻⁷ of the largest for a
    ViT-B. Tokens rounded to half precision have the rank of the rounded matrix: a bfloat16 rank-1 matrix reads more
    than 1.
    """
    dtype = sum_dtype(tokens.device)
    samples, count, width = tokens.shape
    if count == 0 or width == 0:
        return torch.zeros(samples, dtype=dtype, device=tokens.device)
    step = samples_at_once(tokens.device, samples)
    grams = []
    for first in range(0, samples, step):
        x = tokens[first : first + step].to(dtype)
        grams.append(x @ x.mT if count <= width else x.mT @ x)
    gram = torch.cat(grams) if grams else tokens.new_zeros((0, 1, 1), dtype=dtype)
    finite = gram.isfinite().all(dim=2).all(dim=1)
    power = torch.linalg.eigvalsh(gram.where(finite[:, None, None], torch.zeros_like(gram)))
    largest = power[:, -1:]
    threshold = max(count, width) * torch.finfo(dtype).eps * largest
    sigma = power.where(power > threshold, torch.zeros_like(power)).sqrt()
    total = sigma.sum(dim=1, keepdim=True)
    share = sigma / total.where(total > 0, torch.ones_like(total))
    rank = torch.special.entr(share).sum(dim=1).exp()
    rank = rank.where(total[:, 0] > 0, torch.zeros_like(rank))
    return rank.where(finite, torch.full_like(rank, torch.nan))
