"""Effective rank against NumPy's singular value decomposition and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from layerscope.functional.effective_rank import effective_rank


def by_svd(tokens: Tensor) -> float:
    sigma = np.linalg.svd(tokens.double().numpy(), compute_uv=False)
    share = sigma[sigma > 1e-12 * sigma[0]]
    share = share / share.sum()
    return math.exp(-(share * np.log(share)).sum())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 49, 64), (2, 64, 20), (2, 30, 30), (2, 1, 16), (1, 5, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_equals_a_singular_value_decomposition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tokens = (normal(*shape) + 5 * normal(shape[-1], seed=1)).to(dtype)
    found = effective_rank(tokens)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([by_svd(one) for one in tokens], rel=1e-6)


def test_singular_values_over_five_decades() -> None:
    """The last are near what a Gram matrix in float32 would lose altogether."""
    left, right = torch.linalg.qr(normal(40, 40).double())[0], torch.linalg.qr(normal(60, 40, seed=1).double())[0]
    sigma = torch.logspace(0, -5, 40, dtype=torch.float64)
    share = sigma / sigma.sum()
    expected = float((-(share * share.log()).sum()).exp())
    assert effective_rank((left * sigma @ right.mT)[None]).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_of_rounding_is_no_direction(rank: int, dtype: torch.dtype) -> None:
    """196 tokens of a ViT-B on few equally strong directions: the rank, not a hundredth more."""
    left, right = torch.linalg.qr(normal(196, rank).double())[0], torch.linalg.qr(normal(768, rank, seed=1).double())[0]
    tokens = (30 * left @ right.mT)[None].to(dtype)
    assert effective_rank(tokens).item() == pytest.approx(rank, rel=1e-6)


def test_closed_forms() -> None:
    constant = normal(768).expand(1, 196, 768)
    assert effective_rank(constant).item() == pytest.approx(1, abs=1e-12)
    assert effective_rank(7 * torch.eye(12, 40)[None]).item() == pytest.approx(12)
    two = torch.diag(torch.tensor([3.0, 1.0]))[None]
    assert effective_rank(two).item() == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert effective_rank(1e-12 * two).item() == pytest.approx(effective_rank(two).item())


def test_zero_tokens_have_none_and_others_beside_them_theirs() -> None:
    tokens = normal(3, 6, 8)
    expected = [by_svd(tokens[0]), 0, by_svd(tokens[2])]
    tokens[1] = 0
    assert effective_rank(tokens).tolist() == pytest.approx(expected, rel=1e-6)
    tokens[1, 2, 3] = torch.inf
    found = effective_rank(tokens).tolist()
    assert math.isnan(found[1])
    assert [found[0], found[2]] == pytest.approx([expected[0], expected[2]], rel=1e-6)
    assert effective_rank(tokens[:0]).shape == (0,)
    assert effective_rank(torch.zeros(2, 0, 8)).tolist() == [0, 0]
