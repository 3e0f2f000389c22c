"""Mean and standard deviation over samples, on any number of processes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from layerscope.functional.moments import Moments, merge_moments, moments_of, standard_deviation


class MeanAndStd(NamedTuple):
    """Each of the metric's shape.

    n: values that were not NaN, int64. mean: NaN without any. std: of a sample (n − 1), NaN for fewer than two.
    """

    n: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


class RunningMoments(Metric):
    """Count, mean and standard deviation over samples of values (B, *shape), in float64, each place for itself.

    NaN marks what could not be measured and is left out where it stands. Batches and processes are merged by Chan's
    formula (``functional.moments``), so that batch size, order and processes do not change the answer beyond rounding
    (relative, 1e-16 times |mean| / std). ``compute`` gives NumPy arrays: torchmetrics would squeeze a tensor of one
    element out of its shape.

    Args:
        shape: of one sample's values, ``(L, 5)`` for five figures of L layers.
    """

    full_state_update = False
    higher_is_better = None
    moments: Tensor

    def __init__(self, shape: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # One state, since the reduction of one state sees no other and Chan's formula needs all three.
        self.add_state("moments", torch.zeros(3, *shape, dtype=torch.float64), dist_reduce_fx=merged)

    def update(self, values: Tensor) -> None:
        """Adds samples (B, *shape) of any floating-point type; B may be 0."""
        found = moments_of(values.detach().to(self.moments))
        self.moments = merged([self.moments, torch.stack(found)])

    def compute(self) -> MeanAndStd:
        """The figures of all samples so far."""
        found = Moments(*self.moments)
        mean = found.mean.where(found.n > 0, found.mean.new_full((), torch.nan))
        std = standard_deviation(found)
        return MeanAndStd(found.n.long().cpu().numpy(), mean.cpu().numpy(), std.cpu().numpy())


def merged(states: Iterable[Tensor]) -> Tensor:
    """States (3, ...) of several processes, stacked or in a list, to the one of all their samples."""
    return torch.stack(reduce(merge_moments, (Moments(*state) for state in states)))
