"""Means over image pairs with bootstrap intervals; all tables share the resamples, so they are paired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.functional.bootstrap import percentile_interval
from layerscope.functional.intervals import cluster_sums
from layerscope.functional.resampled_moments import FloatArray, resampled_moments

FEW_UNITS = 10
"""With fewer pairs (patients, where pairs are grouped) a percentile interval is rough, mostly too narrow."""


@dataclass(frozen=True)
class PairMeans:
    """All of the shape of one pair's values.

    mean, std: over the pairs that have a value (ddof 1). n: how many they are. units: pairs, or patients among them.
    lo, hi: percentile interval of the mean; NaN with fewer than two units.
    resampled_mean, resampled_variance: (B, ...).
    """

    mean: FloatArray
    std: FloatArray
    n: NDArray[np.int64]
    units: NDArray[np.int64]
    lo: FloatArray
    hi: FloatArray
    resampled_mean: FloatArray
    resampled_variance: FloatArray


def pair_means(
    values: FloatArray, weights: NDArray[np.float32], group: NDArray[np.int64] | None, level: float
) -> PairMeans:
    """values: (n, ...), NaN and infinities are left out; weights: (B, n); group: (n,) or None; level in (0, 1)."""
    values = np.where(np.isfinite(values), values, np.nan)
    n, mean, variance = (part[0] for part in resampled_moments(values, np.ones((1, len(values)))))
    _, means, variances = resampled_moments(values, weights)
    lo, hi, _ = percentile_interval(means, level)
    known = np.isfinite(values)
    units = (cluster_sums(known.astype(np.float64), group) > 0).sum(axis=0) if len(values) else n
    alone = units < 2
    return PairMeans(
        mean=mean,
        std=np.sqrt(variance),
        n=n.astype(np.int64),
        units=units.astype(np.int64),
        lo=np.where(alone, np.nan, lo),
        hi=np.where(alone, np.nan, hi),
        resampled_mean=means,
        resampled_variance=variances,
    )
