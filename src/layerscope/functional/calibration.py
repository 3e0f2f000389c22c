"""Whether predicted probabilities mean what they say, per label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from layerscope.errors import NumericalError
from layerscope.functional.scored_labels import BoolArray, FloatArray, IntArray, scored_labels


@dataclass(frozen=True)
class ReliabilityCurve:
    """Predicted against observed frequency in bins of equal width.

    edges: (n_bins + 1,) from 0 to 1; a bin holds its upper edge, the first one 0 as well.
    count: (L, n_bins) known samples.
    confidence: (L, n_bins) mean probability, NaN in empty bins.
    frequency: (L, n_bins) share of positives, NaN in empty bins.
    """

    edges: FloatArray
    count: IntArray
    confidence: FloatArray
    frequency: FloatArray


def _probabilities(
    prob: ArrayLike, target: ArrayLike, known: ArrayLike | None
) -> tuple[FloatArray, BoolArray, BoolArray]:
    values, positive, mask = scored_labels(prob, target, known)
    outside = mask & ((values < 0) | (values > 1))
    if outside.any():
        raise NumericalError(
            f"Calibration needs probabilities in [0, 1], but {int(outside.sum())} values lie outside, the first being "
            f"{values[outside][0]}. Pass logits through a sigmoid first."
        )
    return values.astype(np.float64), positive, mask


def reliability_curve(
    prob: ArrayLike, target: ArrayLike, known: ArrayLike | None = None, n_bins: int = 15
) -> ReliabilityCurve:
    """Count, mean probability and share of positives per label and bin.

    Args:
        prob: (N, L) in [0, 1]; target: (N, L) in {0, 1}; known: (N, L) or None.

    Raises:
        NumericalError: a value is outside [0, 1] (logits were passed?) or not finite.
    """
    values, positive, mask = _probabilities(prob, target, known)
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    count = np.zeros((values.shape[1], n_bins), dtype=np.int64)
    confidence = np.zeros(count.shape)
    frequency = np.zeros(count.shape)
    for label in range(values.shape[1]):
        column = values[mask[:, label], label]
        place = np.searchsorted(edges[1:-1], column, side="left")
        count[label] = np.bincount(place, minlength=n_bins)
        confidence[label] = np.bincount(place, weights=column, minlength=n_bins)
        frequency[label] = np.bincount(place, weights=positive[mask[:, label], label], minlength=n_bins)
    filled = np.where(count > 0, count, np.nan)
    return ReliabilityCurve(edges, count, confidence / filled, frequency / filled)


def expected_calibration_error(
    prob: ArrayLike, target: ArrayLike, known: ArrayLike | None = None, n_bins: int = 15
) -> FloatArray:
    """Expected calibration error of the positive class per label (L,), in [0, 1], lower is better.

    The mean over samples of |mean probability - share of positives| in the sample's bin (Naeini et al. 2015),
    `n_bins` bins of equal width. Biased upwards when bins hold few samples. NaN where nothing is known.

    >>> expected_calibration_error([[0.9], [0.9], [0.1], [0.1]], [[1], [1], [0], [0]]).round(6)
    array([0.1])
    """
    curve = reliability_curve(prob, target, known, n_bins)
    total = curve.count.sum(axis=1)
    gap = np.where(curve.count > 0, np.abs(curve.confidence - curve.frequency) * curve.count, 0.0).sum(axis=1)
    return np.where(total > 0, gap / np.maximum(total, 1), np.nan)


def brier(prob: ArrayLike, target: ArrayLike, known: ArrayLike | None = None) -> FloatArray:
    """Mean squared difference of probability and label (L,), in [0, 1], lower is better; NaN where nothing is known.

    >>> brier([[0.8], [0.4]], [[1], [0]]).round(6)
    array([0.1])
    """
    values, positive, mask = _probabilities(prob, target, known)
    total = mask.sum(axis=0)
    squared = np.where(mask, (values - positive) ** 2, 0.0).sum(axis=0)
    return np.where(total > 0, squared / np.maximum(total, 1), np.nan)
