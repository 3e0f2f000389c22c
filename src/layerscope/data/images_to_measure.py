"""Which images of a data set stand for all of them when something is measured once."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from layerscope.data.hashing import rows_by_hash


def images_to_measure(loader: DataLoader[Any], count: int) -> DataLoader[Any]:
    """At most ``count`` images of a loader's data set, in the order of a hash of their ids.

    Neither the order of the rows nor the number of processes matters: each process measures the same images. The
    given loader keeps its position, and torch's generator is not drawn from.
    """
    dataset: Any = loader.dataset
    rows = rows_by_hash(dataset.ids)
    # For predict Lightning replaces the loader by one that is made from a batch sampler, whose batch_size is None.
    batch_size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", 1)
    return DataLoader(
        Subset(dataset, rows[:count]),
        batch_size=batch_size,
        collate_fn=loader.collate_fn,
        generator=torch.Generator(),
    )
