"""At which noise level a label is lost: the collapse point and the onset of damage.

The axis is log-SNR in nats; noise grows as log-SNR falls. Everything is numpy, over batches of curves (..., T), so that
bootstrap resamples are one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerscope.errors import DataError
from layerscope.functional.scored_labels import FloatArray

CollapseState = Literal["collapsed_at_recon", "collapsed", "not_reached", "undefined"]


@dataclass(frozen=True)
class CollapseInterval:
    """Percentile interval of a collapse point over resamples.

    lo, hi: log-SNR. Infinite where the bound lies beyond what was measured: -inf "still recognised at the strongest
        noise", +inf "lost by the reconstruction alone". NaN where no resample is defined.
    n_undefined: resamples without a collapse point because their real AUROC is undefined or too near .5.
    """

    lo: float
    hi: float
    n_undefined: int


def _by_log_snr(log_snr: ArrayLike, curves: ArrayLike) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    """Axis (T,) and curves (..., T) in rising order, and that order."""
    axis = np.asarray(log_snr, dtype=np.float64)
    values = np.asarray(curves, dtype=np.float64)
    if axis.ndim != 1 or values.shape[-1:] != axis.shape or not len(axis):
        raise DataError(
            f"Curves of shape {values.shape} do not fit {axis.shape} log-SNR values; they must be (..., T)."
        )
    order = np.argsort(axis)
    if not np.isfinite(axis).all() or (np.diff(axis[order]) == 0).any():
        raise DataError(
            f"log-SNR values must be finite and distinct, got {axis}; average noise draws of one step first."
        )
    return axis[order], values[..., order], order


def _isotonic(rising: FloatArray) -> FloatArray:
    """Least-squares non-decreasing fit along the last axis: max over starts of min over ends of the block means."""
    n_steps = rising.shape[-1]
    sums = np.concatenate([np.zeros((*rising.shape[:-1], 1)), np.cumsum(rising, axis=-1)], axis=-1)
    fitted = np.full(rising.shape, -np.inf)
    for start in range(n_steps):
        length = np.arange(1, n_steps - start + 1)
        means = (sums[..., start + 1 :] - sums[..., start : start + 1]) / length
        lowest = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
        fitted[..., start:] = np.maximum(fitted[..., start:], lowest)
    return fitted


def monotone_curve(log_snr: ArrayLike, auroc: ArrayLike) -> FloatArray:
    """The closest curve in least squares that never rises as noise grows (isotonic regression, equal weights).

    Args:
        log_snr: (T,) distinct, in any order; auroc: (..., T).

    Returns:
        (..., T) in the order given; NaN throughout where any point is NaN.

    Raises:
        DataError: shapes differ, or two log-SNR values are equal or not finite.
    """
    _, rising, order = _by_log_snr(log_snr, auroc)
    fitted = np.empty_like(rising)
    fitted[..., order] = _isotonic(rising)
    return np.where(np.isnan(fitted).any(axis=-1, keepdims=True), np.nan, fitted)


def collapse_threshold(auroc_real: ArrayLike) -> FloatArray:
    """The AUROC at which half of what the teacher knew is lost: 0.5 + (A_o - 0.5) / 2."""
    return np.asarray(0.5 + 0.5 * (np.asarray(auroc_real, dtype=np.float64) - 0.5))


def collapse_points(
    log_snr: ArrayLike,
    auroc: ArrayLike,
    auroc_real: ArrayLike,
    auroc_recon: ArrayLike,
    minimum_real: float = 0.55,
) -> tuple[NDArray[np.str_], FloatArray]:
    """Collapse point of many curves: the first log-SNR, going down, where the monotone curve reaches the threshold.

    Args:
        log_snr: (T,) of the noise steps, without the reconstruction; auroc: (..., T).
        auroc_real, auroc_recon: (...) AUROC on real images and on reconstructions without noise.
        minimum_real: below this real AUROC a label carries too little to lose, and the state is undefined.

    Returns:
        state (...) of `CollapseState`; log_snr (...): the point for "collapsed", linear between the steps and the
        first step where that is already below; NaN for the other states.
    """
    axis, rising, _ = _by_log_snr(log_snr, auroc)
    curve = _isotonic(rising)
    real = np.asarray(auroc_real, dtype=np.float64)
    recon = np.asarray(auroc_recon, dtype=np.float64)
    threshold = collapse_threshold(real)
    undefined = ~(real >= minimum_real) | np.isnan(recon) | np.isnan(rising).any(axis=-1)
    below = curve <= threshold[..., None]
    # The curve rises with log-SNR, so the points below the threshold come first: their number is the crossing.
    count = below.sum(axis=-1)
    last = np.maximum(count - 1, 0)
    following = np.minimum(last + 1, len(axis) - 1)
    y0 = np.take_along_axis(curve, last[..., None], axis=-1)[..., 0]
    y1 = np.take_along_axis(curve, following[..., None], axis=-1)[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(y1 > y0, (threshold - y0) / (y1 - y0), 0.0)
    point = axis[last] + share * (axis[following] - axis[last])
    state = np.where(count > 0, "collapsed", "not_reached")
    state = np.where(recon <= threshold, "collapsed_at_recon", state)
    state = np.where(undefined, "undefined", state)
    return state, np.where(state == "collapsed", point, np.nan)


def collapse_point(
    log_snr: ArrayLike, auroc: ArrayLike, auroc_real: float, auroc_recon: float, minimum_real: float = 0.55
) -> tuple[CollapseState, float]:
    """`collapse_points` of one curve: log_snr (T,), auroc (T,) to (state, log-SNR or NaN).

    >>> collapse_point([4.0, 2.0, 0.0, -2.0], [1.0, 1.0, 0.5, 0.5], auroc_real=1.0, auroc_recon=1.0)
    ('collapsed', 1.0)
    """
    state, point = collapse_points(log_snr, auroc, auroc_real, auroc_recon, minimum_real)
    return cast("CollapseState", state.item()), float(point)


def collapse_interval(state: ArrayLike, point: ArrayLike, level: float = 0.95) -> CollapseInterval:
    """Percentile interval of one label's collapse point from its resamples, state (B,) and point (B,).

    Resamples lost at reconstruction count above every measured log-SNR, those never lost below.
    """
    states = np.asarray(state)
    placed = np.asarray(point, dtype=np.float64).copy()
    placed[states == "not_reached"] = -np.inf
    placed[states == "collapsed_at_recon"] = np.inf
    defined = np.sort(placed[states != "undefined"])
    if not len(defined):
        return CollapseInterval(float("nan"), float("nan"), len(states))
    # Order statistics, because an infinite value cannot be interpolated.
    lo, hi = np.quantile(defined, [0.5 - level / 2, 0.5 + level / 2], method="inverted_cdf")
    return CollapseInterval(float(lo), float(hi), len(states) - len(defined))


def onset(log_snr: ArrayLike, upper: ArrayLike, margin: float) -> float | None:
    """The largest log-SNR at which damage is proved: the upper bound of the change of AUROC lies below -margin.

    Args:
        log_snr: (T,); upper: (T,) upper ends of the simultaneous band of delta, NaN where undefined.
        margin: not negative, in AUROC.

    Returns:
        None where no step is.
    """
    axis = np.asarray(log_snr, dtype=np.float64)
    proved = axis[np.asarray(upper, dtype=np.float64) < -margin]
    return float(proved.max()) if len(proved) else None
