"""Linear CKA over groups against its definition on the full matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from layerscope.errors import ConfigurationError
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


def starts(n: int, group: int) -> list[int]:
    return list(range(0, n, group))


def test_one_group_of_all_is_the_definition(sides: tuple[Tensor, Tensor]) -> None:
    metric = LinearCKA(2)
    x, y = (side.double() for side in sides)
    metric.update(torch.stack([LinearCKA.group_hsic(x, y, [0], N), LinearCKA.group_hsic(x, x, [0], N)]), 1)
    found = metric.compute()
    assert found.groups == 1
    assert found.value.dtype == np.float64
    assert found.value.tolist() == pytest.approx([full_cka(x, y), 1.0], rel=1e-9)


def test_sums_over_groups_estimate_the_full_matrix_and_a_mean_of_biased_ratios_does_not(
    sides: tuple[Tensor, Tensor],
) -> None:
    """Groups of sixteen, dealt a hundred times: noise of single deals averages out, a bias would not."""
    x, y = sides
    truth = full_cka(x, y)
    generator = torch.Generator().manual_seed(1)
    metric, biased = LinearCKA(1), []
    for _ in range(100):
        order = torch.randperm(N, generator=generator)
        a, b = x[order], y[order]
        metric.update(LinearCKA.group_hsic(a, b, starts(N, 16), 16)[None], N // 16)
        for p, q in zip(a.flatten(1).split(16), b.flatten(1).split(16)):
            k, l = (side - side.mean(dim=0) for side in (p, q))  # noqa: E741
            biased.append(float((k.T @ l).square().sum() / ((k.T @ k).norm() * (l.T @ l).norm())))
    found = metric.compute()
    assert found.groups == 400
    assert found.value.shape == (1,)
    assert found.value[0] == pytest.approx(truth, abs=0.006)
    assert np.mean(biased) > truth + 0.1


def test_batches_order_and_processes_do_not_change_the_answer(sides: tuple[Tensor, Tensor]) -> None:
    x, y = sides
    whole = LinearCKA(1)
    whole.update(LinearCKA.group_hsic(x, y, starts(N, 8), 8)[None], 8)
    expected = whole.compute().value
    parts = []
    for rows in ([3, 0, 5], [7, 6, 1, 4, 2]):  # groups of two processes, one batch a group
        part = LinearCKA(1)
        for row in rows:
            cut = slice(8 * row, 8 * row + 8)
            part.update(LinearCKA.group_hsic(x[cut], y[cut], [0], 8)[None], 1)
        parts.append(part)

    def gather(state: Tensor, group: object = None) -> list[Tensor]:
        name = "groups" if state.ndim == 0 else "sums"
        return [getattr(part, name).clone() for part in parts]

    rank = LinearCKA(1, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    rank.update(torch.zeros(1, 3), 0)
    found = rank.compute()
    assert found.groups == 8
    np.testing.assert_allclose(found.value, expected, rtol=1e-12)


def test_rows_outside_of_groups_do_not_count(sides: tuple[Tensor, Tensor]) -> None:
    x, y = sides
    found = LinearCKA.group_hsic(x[:13], y[:13], [1, 8], 4)
    expected = LinearCKA.group_hsic(x[1:5], y[1:5], [0], 4) + LinearCKA.group_hsic(x[8:12], y[8:12], [0], 4)
    torch.testing.assert_close(found, expected)


def test_every_batch_counts_and_not_the_last_alone(sides: tuple[Tensor, Tensor]) -> None:
    x, y = sides
    both, last = LinearCKA(1), LinearCKA(1)
    last.update(LinearCKA.group_hsic(x, y, [32], 8)[None], 1)
    for start in (0, 32):
        both.update(LinearCKA.group_hsic(x, y, [start], 8)[None], 1)
    assert both.compute().groups == 2
    assert abs(both.compute().value[0] - last.compute().value[0]) > 1e-3


def test_without_groups_or_variation_it_is_nan() -> None:
    metric = LinearCKA(2)
    flat = torch.ones(4, 3)
    assert LinearCKA.group_hsic(flat, flat, []).tolist() == [0, 0, 0]
    metric.update(LinearCKA.group_hsic(flat, flat, [0]).expand(2, 3), 1)
    assert np.isnan(metric.compute().value).all()
    metric.reset()
    metric.update(torch.zeros(2, 3), 0)
    assert np.isnan(metric.compute().value).all()


def test_incomplete_and_small_groups_are_errors(sides: tuple[Tensor, Tensor]) -> None:
    x, y = sides
    with pytest.raises(ConfigurationError, match=r"beginning at \[0, 4\], and the batch has 7"):
        LinearCKA.group_hsic(x[:7], y[:7], [0, 4], 4)
    with pytest.raises(ConfigurationError, match="groups of 4 samples or more and got 3"):
        LinearCKA.group_hsic(x, y, [0], 3)
