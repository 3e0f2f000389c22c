"""HSIC of groups of samples, and linear CKA from their sums, against the definition on the full matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from layerscope.errors import ConfigurationError, LayerscopeError
from layerscope.metrics.linear_cka import LinearCKA

N = 64


@pytest.fixture(scope="module")
def sides() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, 2, 2, generator=generator)
    return x, x + 0.7 * torch.randn(N, 4, 2, 2, generator=generator)


def full_cka(x: Tensor, y: Tensor) -> float:
    """HSIC₁ of the whole Gram matrices, in NumPy."""
    n = len(x)
    k, l = (side.flatten(1).double().numpy() @ side.flatten(1).double().numpy().T for side in (x, y))  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)

    def hsic(p: np.ndarray, q: np.ndarray) -> float:
        means = (one @ p @ one) * (one @ q @ one) / ((n - 1) * (n - 2))
        return (np.trace(p @ q) + means - 2 / (n - 2) * (one @ p @ q @ one)) / (n * (n - 3))

    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def cka(hsic: np.ndarray) -> list[float]:
    """Of each layer, from (G, L, 3)."""
    kl, kk, ll = hsic.sum(axis=0).T
    return list(kl / np.sqrt(kk * ll))


def starts(n: int, group: int) -> list[int]:
    return list(range(0, n, group))


def test_one_group_of_all_is_the_definition(sides: tuple[Tensor, Tensor]) -> None:
    metric = LinearCKA(1, 2)
    x, y = (side.double() for side in sides)
    metric.update([0], torch.stack([LinearCKA.group_hsic(x, side, [0], N) for side in (y, x)], dim=1))
    found = metric.compute()
    assert (found.shape, found.dtype) == ((1, 2, 3), np.float64)
    assert cka(found) == pytest.approx([full_cka(x, y), 1.0], rel=1e-9)


def test_sums_over_groups_estimate_the_full_matrix_and_a_mean_of_biased_ratios_does_not(
    sides: tuple[Tensor, Tensor],
) -> None:
    """Groups of sixteen, dealt a hundred times: noise of single deals averages out, a bias would not."""
    x, y = sides
    truth = full_cka(x, y)
    generator = torch.Generator().manual_seed(1)
    metric, biased = LinearCKA(400, 1), []
    for deal in range(100):
        order = torch.randperm(N, generator=generator)
        a, b = x[order], y[order]
        metric.update(range(4 * deal, 4 * deal + 4), LinearCKA.group_hsic(a, b, starts(N, 16), 16)[:, None])
        for p, q in zip(a.flatten(1).split(16), b.flatten(1).split(16)):
            k, l = (side - side.mean(dim=0) for side in (p, q))  # noqa: E741
            biased.append(float((k.T @ l).square().sum() / ((k.T @ k).norm() * (l.T @ l).norm())))
    found = metric.compute()
    assert found.shape == (400, 1, 3)
    assert cka(found) == pytest.approx([truth], abs=0.006)
    assert np.mean(biased) > truth + 0.1


def test_batches_order_and_processes_do_not_change_the_answer(sides: tuple[Tensor, Tensor]) -> None:
    x, y = sides
    whole = LinearCKA(9, 1)
    whole.update(torch.arange(8), LinearCKA.group_hsic(x, y, starts(N, 8), 8)[:, None])
    parts = []
    for rows in ([3, 0, 5], [7, 6, 1, 4, 2]):  # groups of two processes, one batch a group
        part = LinearCKA(9, 1)
        for row in rows:
            cut = slice(8 * row, 8 * row + 8)
            part.update([row], LinearCKA.group_hsic(x[cut], y[cut], [0], 8)[:, None])
        parts.append(part)

    def gather(state: Tensor, group: object = None) -> list[Tensor]:
        name = "seen" if state.ndim == 1 else "hsic"
        return [getattr(part, name).clone() for part in parts]

    rank = LinearCKA(9, 1, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    rank.update([], torch.zeros(0, 1, 3))
    found = rank.compute()
    assert found.shape == (8, 1, 3)
    np.testing.assert_allclose(found, whole.compute(), rtol=1e-12)


def test_rows_outside_of_groups_do_not_count(sides: tuple[Tensor, Tensor]) -> None:
    x, y = sides
    found = LinearCKA.group_hsic(x[:13], y[:13], [1, 8], 4)
    expected = [LinearCKA.group_hsic(x[start : start + 4], y[start : start + 4], [0], 4) for start in (1, 8)]
    torch.testing.assert_close(found, torch.cat(expected))


def test_groups_that_were_not_seen_are_left_out_and_the_others_stay_in_order() -> None:
    metric = LinearCKA(6, 2)
    rows = torch.arange(18, dtype=torch.float64).reshape(3, 2, 3)
    metric.update(torch.tensor([4, 0]), rows[:2])
    metric.update([2], rows[2:])
    np.testing.assert_array_equal(metric.compute(), rows[[1, 2, 0]].numpy())
    metric.reset()
    metric.update([], torch.zeros(0, 2, 3))
    assert metric.compute().shape == (0, 2, 3)


def test_a_group_that_was_seen_twice_is_an_error() -> None:
    metric = LinearCKA(3, 1)
    for group in ([0, 1], [1, 2]):
        metric.update(group, torch.ones(2, 1, 3))
    with pytest.raises(LayerscopeError, match=r"1 groups .* more than once \(first: \[1\]\)"):
        metric.compute()


def test_a_layer_without_variation_has_none() -> None:
    flat = torch.ones(4, 3)
    assert LinearCKA.group_hsic(flat, flat, [0]).tolist() == [[0, 0, 0]]
    assert LinearCKA.group_hsic(flat, flat, []).shape == (0, 3)


def test_incomplete_and_small_groups_are_errors(sides: tuple[Tensor, Tensor]) -> None:
    x, y = sides
    with pytest.raises(ConfigurationError, match=r"beginning at \[0, 4\], and the batch has 7"):
        LinearCKA.group_hsic(x[:7], y[:7], [0, 4], 4)
    with pytest.raises(ConfigurationError, match="groups of 4 samples or more and got 3"):
        LinearCKA.group_hsic(x, y, [0], 3)
