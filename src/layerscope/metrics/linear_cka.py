"""What linear CKA of each layer is made of: HSIC of groups of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from layerscope.errors import ConfigurationError, LayerscopeError
from layerscope.functional.hsic import SMALLEST_GROUP, centred_gram, unbiased_hsic
from layerscope.functional.memory_blocks import sum_dtype


class LinearCKA(Metric):
    """HSIC₁ of L layers within each of G groups of samples, in float64; ``report.layer_cka`` makes linear CKA of it.

    Three numbers a group and layer, HSIC₁(K, L), HSIC₁(K, K) and HSIC₁(L, L): samples of different groups are never
    compared, so activations need not be kept, and groups are what an interval resamples. The same for any order of
    groups and number of processes, provided that the groups are the same: build them from the samples' rows in the
    split, not from batches. CKA does not see a rotation or scaling of a whole layer: never the only metric.

    ``compute`` gives NumPy arrays: torchmetrics would squeeze a tensor of one element out of its shape.

    Args:
        groups: G, those that the split can have; some may stay unseen.
        layers: L.
    """

    full_state_update = False
    higher_is_better = None
    hsic: Tensor
    seen: Tensor

    def __init__(self, groups: int, layers: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hsic", torch.zeros(groups, layers, 3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(groups, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, group: Tensor | Sequence[int], sums: Tensor) -> None:
        """Stores g groups: their numbers (g,), 0 to G − 1, and sums (g, L, 3), for each layer ``group_hsic``'s rows."""
        index = torch.as_tensor(group, dtype=torch.int64, device=self.seen.device)
        self.hsic.index_add_(0, index, sums.detach().to(self.hsic))
        self.seen.index_add_(0, index, torch.ones_like(index))

    def compute(self) -> NDArray[np.float64]:
        """(G_seen, L, 3), the groups that were seen in the order of their numbers.

        Raises:
            LayerscopeError: a group was seen more than once.
        """
        if twice := (self.seen > 1).nonzero().flatten().tolist():
            raise LayerscopeError(
                f"{len(twice)} groups of linear CKA were measured more than once (first: {twice[:5]}). On several "
                "processes a datamodule must use layerscope.data.sampler.UnrepeatedDistributedSampler."
            )
        return np.asarray(self.hsic[self.seen > 0].cpu().numpy())

    @staticmethod
    def group_hsic(a: Tensor, b: Tensor, starts: Sequence[int], group: int = SMALLEST_GROUP) -> Tensor:
        """[HSIC₁(K, L), HSIC₁(K, K), HSIC₁(L, L)] of one layer in each group, (len(starts), 3) float64, on MPS float32.

        K and L are the Gram matrices of a and b within a group; a group is ``group`` samples beginning at each of
        ``starts``.

        Args:
            a, b: (B, ...), sample i of a belongs to sample i of b.
            starts: the first sample of each group.
            group: samples of a group, 4 or more; the larger, the less noise. 96 pairs with 16 features and a CKA of .67
                read .67 ± .08 in groups of 4, ± .04 in groups of 8 and ± .03 in groups of 16.

        Raises:
            ConfigurationError: a group of fewer than four samples, or one that ends behind the batch.
        """
        if any(start < 0 or start + group > min(len(a), len(b)) for start in starts):
            raise ConfigurationError(
                f"Linear CKA was asked for groups of {group} samples beginning at {list(starts)}, and the batch has "
                f"{len(a)}. Leave incomplete groups out, or give it batches of a multiple of {group}."
            )
        hsic = torch.zeros(len(starts), 3, dtype=sum_dtype(a.device), device=a.device)
        for row, start in enumerate(starts):
            k, l = (centred_gram(one[start : start + group]) for one in (a, b))  # noqa: E741 - the field's letters
            hsic[row] = unbiased_hsic(torch.stack([k, k, l]), torch.stack([l, k, l]))
        return hsic
