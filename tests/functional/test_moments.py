"""Merged moments against NumPy on all values at once."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch
from torch import Tensor

from layerscope.functional.moments import Moments, merge_moments, moments_of, standard_deviation


def merged_in_parts(values: Tensor, sizes: list[int]) -> Moments:
    return reduce(merge_moments, (moments_of(part) for part in values.split(sizes)))


def splits(n: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    cuts = [sorted(rng.integers(0, n + 1, size=k).tolist()) for k in (1, 3, 20)]
    return [[n], [1] * n, *([b - a for a, b in zip([0, *c], [*c, n])] for c in cuts)]


@pytest.mark.parametrize(("mean", "tolerance"), [(0.0, 1e-12), (5.0, 1e-12), (1e8, 1e-8)])
def test_any_split_and_order_equals_numpy(mean: float, tolerance: float) -> None:
    """The bound is Chan, Golub and LeVeque's: rounding times |mean| / std, which for 1e8 is 1e-8."""
    generator = torch.Generator().manual_seed(0)
    values = mean + torch.randn(300, 2, 3, generator=generator, dtype=torch.float64)
    for order in (torch.arange(300), torch.randperm(300, generator=generator)):
        for sizes in splits(300):
            found = merged_in_parts(values[order], sizes)
            assert found.n.unique().tolist() == [300]
            np.testing.assert_allclose(found.mean.numpy(), values.numpy().mean(axis=0), rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(
                standard_deviation(found).numpy(), values.numpy().std(axis=0, ddof=1), rtol=tolerance
            )


def test_sums_of_squares_would_lose_the_deviation() -> None:
    values = 1e8 + torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    naive = float(values.square().sum() - values.sum().square() / 300) / 299
    assert abs(naive - 1) > 0.5
    assert float(standard_deviation(merged_in_parts(values, [100, 200]))) == pytest.approx(
        float(values.std()), rel=1e-9
    )


def test_nan_is_left_out_at_its_place() -> None:
    nan = torch.nan
    values = torch.tensor([[1.0, nan, nan], [2.0, 5.0, nan], [6.0, nan, nan], [nan, nan, nan]])
    for sizes in ([4], [1, 1, 1, 1], [2, 0, 2], [3, 1]):
        found = merged_in_parts(values, sizes)
        assert found.n.tolist() == [3, 1, 0]
        assert found.mean.tolist() == [3, 5, 0]
        std = standard_deviation(found)
        assert float(std[0]) == pytest.approx(7**0.5)
        assert std[1:].isnan().all()


def test_infinite_values_give_an_infinite_mean_in_any_order() -> None:
    """The signal-to-noise ratio of identical pairs is infinite."""
    inf = torch.inf
    values = torch.tensor([[1.0, inf, 1.0], [inf, inf, inf], [3.0, inf, 2.0], [2.0, inf, -inf]])
    for order in ([0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0]):
        for sizes in ([4], [1, 1, 1, 1], [2, 0, 2], [0, 1, 3]):
            found = merged_in_parts(values[order], sizes)
            assert found.mean[:2].tolist() == [inf, inf]
            assert bool(found.mean[2].isnan())
            assert standard_deviation(found).isnan().all()
