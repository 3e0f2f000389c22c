"""A table with one row per sample of a split, filled in any order on any number of processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from layerscope.errors import LayerscopeError


class IndexedTable(Metric):
    """Named columns over the N rows of a split, written by row number and summed over processes.

    Each process fills the rows it has seen and leaves zeros elsewhere, so the sum over processes is the whole
    table: uneven shares and processes without samples need no padding, and the order never matters. ``compute``
    refuses a table in which a row was seen twice or not at all, which is how Lightning's padding sampler shows.

    Args:
        rows: N, the number of samples in the split.
        columns: name to shape of one row; a trailing ``(C, L)`` gives a column of shape (N, C, L).
        dtype: of every column.

    Returns of ``compute``: name to tensor (N, *shape).
    """

    full_state_update = False
    visits: Tensor
    higher_is_better = None

    def __init__(
        self, rows: int, columns: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.column_names = list(columns)
        for name, shape in columns.items():
            self.add_state(f"column_{name}", torch.zeros(rows, *shape, dtype=dtype), dist_reduce_fx="sum")
        self.add_state("visits", torch.zeros(rows, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, index: Tensor, values: dict[str, Tensor]) -> None:
        """Writes the rows ``index`` (B,) from ``values``, name to (B, *shape); row −1 is a stand-in and is left out."""
        index = index.to(self.visits.device)
        real = index >= 0
        index = index[real]
        for name in self.column_names:
            column: Tensor = getattr(self, f"column_{name}")
            column[index] = values[name].detach().to(column)[real]
        self.visits += torch.bincount(index, minlength=len(self.visits))

    def compute(self) -> dict[str, Tensor]:
        """The whole table; an error when a row was not seen exactly once."""
        wrong = (self.visits != 1).nonzero().flatten().tolist()
        if wrong:
            raise LayerscopeError(
                f"{len(wrong)} of {len(self.visits)} samples were not evaluated exactly once (first rows: {wrong[:5]}, "
                f"seen {self.visits[wrong[:5]].tolist()} times). On several processes a datamodule must use "
                "layerscope.data.sampler.UnrepeatedDistributedSampler and the trainer use_distributed_sampler: false; "
                "limit a dry run with data.limit, not with trainer.limit_test_batches."
            )
        return {name: getattr(self, f"column_{name}") for name in self.column_names}
