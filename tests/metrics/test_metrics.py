"""Tables by row number and latent statistics."""

import pytest
import torch

from layerscope.errors import LayerscopeError
from layerscope.metrics.latents import LatentStatistics
from layerscope.metrics.table import IndexedTable


def test_a_table_is_the_same_in_any_order_and_batch_size() -> None:
    values = torch.randn(7, 2, 3)
    tables = []
    for order in (torch.arange(7).split(3), torch.randperm(7).split(2)):
        table = IndexedTable(7, {"logits": (2, 3)})
        for index in order:
            table.update(index, {"logits": values[index]})
        tables.append(table.compute()["logits"])
    torch.testing.assert_close(tables[0], values)
    torch.testing.assert_close(tables[1], values)


@pytest.mark.parametrize("index", [[0, 1], [0, 1, 2, 2]])
def test_a_sample_seen_twice_or_never_is_an_error(index: list[int]) -> None:
    table = IndexedTable(3, {"score": (1,)})
    table.update(torch.tensor(index), {"score": torch.zeros(len(index), 1)})
    with pytest.raises(LayerscopeError, match="exactly once"):
        table.compute()


def test_latent_statistics_equal_numpy_on_the_whole_set() -> None:
    latents = torch.randn(9, 4, 6, 5, dtype=torch.float64) * 3 + torch.arange(4)[:, None, None]
    metric = LatentStatistics(4, 6, 5)
    for chunk in latents.split(4):
        metric.update(chunk)
    found = metric.compute()
    per_channel = latents.permute(1, 0, 2, 3).reshape(4, -1).numpy()
    torch.testing.assert_close(found["mean"], torch.from_numpy(per_channel.mean(axis=1)))
    torch.testing.assert_close(found["std"], torch.from_numpy(per_channel.std(axis=1)))
    torch.testing.assert_close(found["power"].mean(dim=(1, 2)), found["std"].square())
