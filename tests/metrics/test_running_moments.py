"""Mean and standard deviation over samples, in batches and on two processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from layerscope.metrics.moments import RunningMoments, merged


@pytest.fixture
def values() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = 40 + torch.randn(23, 3, 2, generator=generator, dtype=torch.float64)
    values[::4, 1] = torch.nan
    values[:, 2, 1] = torch.nan
    return values


def measured(*batches: Tensor, **kwargs: object) -> RunningMoments:
    metric = RunningMoments((3, 2), **kwargs)
    for batch in batches:
        metric.update(batch)
    return metric


def assert_is_numpys(metric: RunningMoments, values: Tensor) -> None:
    found = metric.compute()
    n = (~values.isnan()).sum(dim=0).numpy()
    assert found.n.tolist() == n.tolist()
    some = n > 0
    np.testing.assert_allclose(found.mean[some], np.nanmean(values.numpy()[:, some], axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std[some], np.nanstd(values.numpy()[:, some], axis=0, ddof=1), rtol=1e-12)
    assert np.isnan(found.mean[~some]).all()
    assert np.isnan(found.std[~some]).all()


@pytest.mark.parametrize("size", [1, 4, 23])
def test_batches_and_order_do_not_change_the_answer(values: Tensor, size: int) -> None:
    assert_is_numpys(measured(*values.split(size)), values)
    assert_is_numpys(measured(*values.flip(0).split(size), values[:0]), values)


@pytest.mark.parametrize("share", [0, 1, 9])
def test_two_processes_give_the_answer_of_one(values: Tensor, share: int) -> None:
    """Uneven shares; one process may have no sample at all."""
    parts = measured(*values[:share].split(2)), measured(*values[share:].split(5))

    def gather(state: Tensor, group: object = None) -> list[Tensor]:
        return [part.moments for part in parts]

    rank = measured(*values[:share].split(2), dist_sync_fn=gather, distributed_available_fn=lambda: True)
    rank.update(values[:0])
    assert_is_numpys(rank, values)
    one_way, other_way = (merged(torch.stack([p.moments for p in order])) for order in (parts, parts[::-1]))
    torch.testing.assert_close(one_way, other_way, rtol=1e-12, atol=1e-12)


def test_the_mean_is_over_samples_and_not_over_batches(values: Tensor) -> None:
    """A sum of batch means divided by samples depends on the batch size; so does a mean of batch means."""
    column = values[:, 0, 0]
    wrong = [sum(float(b.mean()) for b in column.split(size)) / len(column) for size in (4, 23)]
    assert abs(wrong[0] - wrong[1]) > 1
    found = [measured(*values.split(size)).compute().mean[0, 0] for size in (4, 23)]
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0] == pytest.approx(float(column.mean()), rel=1e-12)


def test_every_batch_counts_and_not_the_last_alone(values: Tensor) -> None:
    batches = values.split(4)
    found, last = measured(*batches).compute(), measured(batches[-1]).compute()
    assert found.n[0, 0] == 23
    assert abs(found.mean[0, 0] - last.mean[0, 0]) > 1e-3


def test_one_sample_has_a_mean_and_no_deviation_and_keeps_its_shape() -> None:
    metric = RunningMoments((1,))
    metric.update(torch.zeros(0, 1))
    assert np.isnan(metric.compute().mean).all()
    metric.update(torch.tensor([[2.0]]))
    found = metric.compute()
    assert [x.shape for x in found] == [(1,)] * 3
    assert found.n.tolist() == [1]
    assert found.mean.tolist() == [2.0]
    assert np.isnan(found.std).all()


def test_a_metric_that_was_reset_begins_anew(values: Tensor) -> None:
    metric = measured(values + 7)
    metric.reset()
    metric.update(values)
    assert_is_numpys(metric, values)
