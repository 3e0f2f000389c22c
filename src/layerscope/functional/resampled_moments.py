"""Means and variances over bootstrap resamples of many columns at once, and the standardised effect made of them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerscope.errors import DataError

FloatArray = NDArray[np.float64]

# Weights of a chunk of resamples, in numbers: 8 MB once they are float64.
_CHUNK = 1_000_000

# A variance below this share of the mean square is what rounding leaves of none.
_ROUNDING = 1e-12


def resampled_moments(values: ArrayLike, weights: NDArray[np.floating]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Number, mean and variance (ddof 1) of every column on every resample.

    Args:
        values: (N, ...), NaN where a sample has no value; such are left out.
        weights: (B, N), how often each sample was drawn; a row of ones gives the plain moments.

    Returns:
        n, mean, variance: (B, ...). The mean is NaN without a value, the variance with fewer than two.
    """
    array = np.asarray(values, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(array):
        raise DataError(f"Weights have shape {weights.shape}; they must be (resamples, {len(array)} samples).")
    flat = array.reshape(len(array), math.prod(array.shape[1:]))
    known = np.isfinite(flat)
    # From a column's first value instead of zero: squares do not cancel, and a constant column varies by exactly 0.
    origin = np.zeros(flat.shape[1])
    if len(flat):
        first = flat[known.argmax(axis=0), np.arange(flat.shape[1])]
        origin = np.where(known.any(axis=0), first, 0.0)
    shifted = np.where(known, flat - origin, 0.0)
    parts = (known.astype(np.float64), shifted, shifted**2)
    sums = np.empty((3, len(weights), flat.shape[1]))
    width = max(1, _CHUNK // max(1, len(flat)))
    for start in range(0, len(weights), width):
        drawn = weights[start : start + width].astype(np.float64)
        for out, part in zip(sums, parts):
            out[start : start + width] = drawn @ part
    n, total, squares = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(n > 0, origin + total / n, np.nan)
        spread = squares - total**2 / n
        variance = np.where(n > 1, np.where(spread > _ROUNDING * squares, spread, 0.0) / (n - 1), np.nan)
    shape = (len(weights), *array.shape[1:])
    return n.reshape(shape), mean.reshape(shape), variance.reshape(shape)


def standardised_effect(
    mean: FloatArray, variance: FloatArray, floor_mean: FloatArray, floor_variance: FloatArray
) -> FloatArray:
    """(m⁺ − m⁻) / √((s⁺² + s⁻²) / 2), of any one shape; NaN where a variance is unknown or both are 0.

    Cohen's d with the two variances weighted alike (Cohen 1988, equation 2.3.2).

    >>> round(float(standardised_effect(np.array(3.0), np.array(1.0), np.array(1.0), np.array(3.0))), 3)
    1.414
    """
    pooled = (variance + floor_variance) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(pooled > 0, (mean - floor_mean) / np.sqrt(pooled), np.nan))
