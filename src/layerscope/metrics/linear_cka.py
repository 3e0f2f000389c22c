"""Linear CKA of each layer over all pairs of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from layerscope.errors import ConfigurationError
from layerscope.functional.hsic import SMALLEST_GROUP, centred_gram, linear_cka_from_sums, unbiased_hsic
from layerscope.functional.memory_blocks import sum_dtype


class LayerCKA(NamedTuple):
    """value: (L,), see ``LinearCKA``. groups: how many groups of samples are behind it."""

    value: NDArray[np.float64]
    groups: int


class LinearCKA(Metric):
    """Linear CKA of L layers from sums of HSIC₁ over groups of samples, in float64; 1 where both sides represent alike.

    ΣHSIC₁(K, L) / √(ΣHSIC₁(K, K)·ΣHSIC₁(L, L)), the sums first and the ratio last (``functional.hsic``): samples of
    different groups are never compared, so memory does not grow, and the expectation of each sum is that of one group
    of all. The same for any order of groups and number of processes, provided that the groups are the same: build
    them from the samples' rows in the split, not from batches. NaN where a layer does not vary or nothing was added.
    It does not see a rotation or scaling of a whole layer: never the only metric.

    ``compute`` gives NumPy arrays: torchmetrics would squeeze a tensor of one element out of its shape.

    Args:
        layers: L.
    """

    full_state_update = False
    higher_is_better = None
    sums: Tensor
    groups: Tensor

    def __init__(self, layers: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(layers, 3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("groups", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, sums: Tensor, groups: int) -> None:
        """Adds ``groups`` groups: sums (L, 3), the rows that ``group_hsic`` gives for each layer on the same groups."""
        self.sums += sums.detach().to(self.sums)
        self.groups += groups

    def compute(self) -> LayerCKA:
        """The figures of all groups so far."""
        value = linear_cka_from_sums(*self.sums.unbind(dim=-1))
        return LayerCKA(value.cpu().numpy(), int(self.groups))

    @staticmethod
    def group_hsic(a: Tensor, b: Tensor, starts: Sequence[int], group: int = SMALLEST_GROUP) -> Tensor:
        """Σ over groups of [HSIC₁(K, L), HSIC₁(K, K), HSIC₁(L, L)] of one layer, float64 (3,) (float32 on MPS).

        K and L are the Gram matrices of a and b within a group; a group is ``group`` samples beginning at each of
        ``starts``. Zeros without a group.

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
        total = torch.zeros(3, dtype=sum_dtype(a.device), device=a.device)
        for start in starts:
            k, l = (centred_gram(one[start : start + group]) for one in (a, b))  # noqa: E741 - the field's letters
            total += unbiased_hsic(torch.stack([k, k, l]), torch.stack([l, k, l]))
        return total
