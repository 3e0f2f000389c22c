"""The unbiased Hilbert-Schmidt independence criterion of two sets of activations."""

from __future__ import annotations

import torch
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.memory_blocks import block_size, blocks, memory_order, sum_dtype

SMALLEST_GROUP = 4
"""Samples the unbiased estimator needs: its denominators hold n − 3."""


@torch.no_grad()
def centred_gram(x: Tensor) -> Tensor:
    """Inner products ⟨x_i − x̄, x_j − x̄⟩ of n samples (n, ...), float64 (n, n) (float32 on MPS).

    ``unbiased_hsic`` does not change when all samples move by one vector, for that adds f_i + f_j to the matrix; the
    digits lost to a common mean do change. So differences to the first sample are multiplied, one sample less to read
    and convert, and the small matrix is centred afterwards, which is the same. The tensor is read in blocks as it lies
    in memory, contiguous or channels last, and each block of differences is made float64: that is never rounded to TF32
    nor autocast, whatever is switched on.
    """
    order = memory_order(x)
    x = x.detach().permute(order)
    dtype = sum_dtype(x.device)
    single = torch.promote_types(x.dtype, torch.float32)
    gram = torch.zeros(len(x), len(x), dtype=dtype, device=x.device)
    for cut in blocks(x.shape[1:], max(1, block_size(x.device) // max(1, 2 * len(x)))):
        first, others = (x[samples + cut].to(single) for samples in ((slice(0, 1),), (slice(1, len(x)),)))
        away = (others - first).to(dtype).reshape(len(x) - 1, -1)
        gram[1:, 1:] += away @ away.T
    rows = gram.mean(dim=0, keepdim=True)
    return gram - rows - rows.T + rows.mean()


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - the field's letters
    """HSIC₁ of Gram matrices K and L, (..., n, n) twice to (...), n ≥ 4; may be negative.

    [tr(K̃L̃) + 1ᵀK̃1·1ᵀL̃1/((n−1)(n−2)) − 2/(n−2)·1ᵀK̃L̃1] / (n(n−3)), with K̃ and L̃ the matrices with zero diagonals
    (Song et al. 2012, equation 5; minibatch use: Nguyen et al. 2021, arXiv 2010.15327). Its expectation does not
    depend on n, so that sums over groups of samples estimate the same as one group of all.

    Raises:
        ConfigurationError: fewer than four samples.
    """
    n = k.shape[-1]
    if n < SMALLEST_GROUP:
        raise ConfigurationError(
            f"The unbiased HSIC of linear CKA needs groups of {SMALLEST_GROUP} samples or more and got {n}. Give it "
            "more pairs at a time, or leave linear CKA out."
        )
    k, l = _without_diagonal(k), _without_diagonal(l)  # noqa: E741
    rows_k, rows_l = k.sum(dim=-1), l.sum(dim=-1)
    # Products and sums instead of matrix products: K̃ and L̃ are symmetric, so tr(K̃L̃) = ΣΣ K̃·L̃.
    trace = (k * l).sum(dim=(-2, -1))
    means = rows_k.sum(dim=-1) * rows_l.sum(dim=-1) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (rows_k * rows_l).sum(dim=-1)
    return (trace + means - cross) / (n * (n - 3))


def _without_diagonal(gram: Tensor) -> Tensor:
    return gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
