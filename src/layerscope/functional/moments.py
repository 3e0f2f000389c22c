"""Mean and spread of values that arrive in parts, whatever the parts and their order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Of n values at each place: their count, mean and sum of squared deviations from it, float64 of one shape.

    mean and m2 are 0 where n is 0. m2 is NaN and mean ±∞ (NaN where both met) where a value was infinite.
    """

    n: Tensor
    mean: Tensor
    m2: Tensor


def moments_of(values: Tensor) -> Moments:
    """Moments over the first dimension of (B, ...), float64, each place for itself; NaN is left out."""
    values = values.double()
    there = ~values.isnan()
    n = there.sum(dim=0).double()
    mean = values.where(there, values.new_zeros(())).sum(dim=0) / n.clamp_min(1)
    deviation = (values - mean).where(there, values.new_zeros(()))
    return Moments(n, mean, deviation.square().sum(dim=0))


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of both sets of values (Chan, Golub and LeVeque 1979, equations 2.1).

    A sum of squares less a squared sum loses all digits where the mean is large beside the deviation; this does not.
    """
    n = a.n + b.n
    share = b.n / n.clamp_min(1)
    delta = b.mean - a.mean
    mean = a.mean + delta * share
    m2 = a.m2 + b.m2 + delta.square() * (a.n * share)
    # An infinite mean stays what it is in any order of merging, where delta would make it NaN in some.
    finite = a.mean.isfinite() & b.mean.isfinite()
    return Moments(n, mean.where(finite, a.mean + b.mean), m2)


def standard_deviation(moments: Moments) -> Tensor:
    """Of a sample, √(m2 / (n − 1)); NaN for fewer than two values."""
    return (moments.m2 / (moments.n - 1).clamp_min(1)).sqrt().where(moments.n > 1, moments.m2.new_full((), torch.nan))
