"""HSIC₁ against its definition in NumPy, and what linear CKA inherits from it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.hsic import centred_gram, unbiased_hsic


def two_sides(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 4, 5, generator=generator)
    return x, x.relu() + 0.5 * torch.randn(n, 3, 4, 5, generator=generator)


def hsic_of_definition(k: NDArray[np.float64], l: NDArray[np.float64]) -> float:  # noqa: E741
    n = len(k)
    k, l = k.copy(), l.copy()  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    cross = 2 / (n - 2) * (one @ k @ l @ one)
    return float((np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - cross) / (n * (n - 3)))


def test_hsic_is_the_definition_on_the_full_matrix() -> None:
    x, y = (side.double() for side in two_sides(12))
    raw = [(side.flatten(1) @ side.flatten(1).T).numpy() for side in (x, y)]
    found = unbiased_hsic(centred_gram(x), centred_gram(y))
    assert found.dtype == torch.float64
    # The definition on matrices that are not centred: a common shift changes nothing.
    assert float(found) == pytest.approx(hsic_of_definition(*raw), rel=1e-9)


def test_hsic_is_the_u_statistic_of_four_different_samples() -> None:
    """Mean of k_st·(l_st + l_uv − 2·l_su) over all ordered choices of four (Song et al. 2012)."""
    k, l = (centred_gram(side).numpy() for side in two_sides(6))  # noqa: E741
    terms = [k[s, t] * (l[s, t] + l[u, v] - 2 * l[s, u]) for s, t, u, v in itertools.permutations(range(6), 4)]
    assert float(unbiased_hsic(torch.from_numpy(k), torch.from_numpy(l))) == pytest.approx(np.mean(terms), rel=1e-9)


def test_hsic_of_a_stack_is_that_of_each() -> None:
    k, l = (torch.stack([centred_gram(part) for part in side.split(4)]) for side in two_sides(12))  # noqa: E741
    together = unbiased_hsic(k, l)
    assert together.shape == (3,)
    torch.testing.assert_close(together, torch.stack([unbiased_hsic(a, b) for a, b in zip(k, l)]))


def test_fewer_than_four_samples_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match="groups of 4 samples or more and got 3"):
        unbiased_hsic(torch.eye(3), torch.eye(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gram_is_that_of_centred_samples(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(2)
    x = (100 + torch.randn(4, 12, 96, 80, generator=generator)).to(dtype, memory_format=memory_format)
    flat = x.double().flatten(1).numpy()
    flat = flat - flat.mean(axis=0)
    torch.testing.assert_close(centred_gram(x), torch.from_numpy(flat @ flat.T), rtol=1e-9, atol=1e-6)


def test_gram_knows_neither_tf32_nor_autocast() -> None:
    x, _ = two_sides(5)
    expected = centred_gram(x)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(centred_gram(x), expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_cka_is_invariant_to_scale_and_rotation_and_one_for_the_same() -> None:
    x, y = (side.flatten(1).double() for side in two_sides(16))

    def cka(a: Tensor, b: Tensor) -> float:
        k, l = centred_gram(a), centred_gram(b)  # noqa: E741
        return float(unbiased_hsic(k, l) / (unbiased_hsic(k, k) * unbiased_hsic(l, l)).sqrt())

    assert cka(x, x) == pytest.approx(1, abs=1e-12)
    rotation = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(3)).double()).Q
    assert cka(x, 7 * y @ rotation + 3) == pytest.approx(cka(x, y), rel=1e-9)
    assert 0.05 < cka(x, y) < 0.95
