"""The bootstrap for what has no closed-form interval: average precision, F1 and collapse points.

One matrix of weights is drawn and used for every label, condition and candidate, so that differences are paired. A
resample is a row of weights: how often each sample was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from layerscope.errors import DataError
from layerscope.functional.intervals import group_index
from layerscope.functional.ranking import tie_groups
from layerscope.functional.scored_labels import BoolArray, FloatArray, scored_labels

# Weights of a chunk of resamples, in numbers: small enough to stay in a core's cache through all passes.
_CHUNK = 262_144


@dataclass(frozen=True)
class WeightedRanking:
    """Metrics of every resample, each (B,) or, for several labels, (B, L).

    NaN where the resample has no positives (all), or no negatives (auroc, ap).
    """

    auroc: FloatArray
    ap: FloatArray
    f1_fixed: FloatArray
    f1_reopt: FloatArray


def resample_weights(n: int, n_resamples: int, seed: int, group: ArrayLike | None = None) -> NDArray[np.float32]:
    """How often each of n samples occurs in each resample: (B, n) float32 holding whole numbers.

    Args:
        n: samples; n_resamples: B.
        seed: the same seed, n and groups give the same weights.
        group: (n,) or None; groups are drawn whole, as many as there are.

    Raises:
        DataError: the number of group entries is not n.
    """
    index = np.arange(n) if group is None else group_index(group)
    if len(index) != n:
        raise DataError(f"There are {len(index)} group entries for {n} samples; give one group per sample.")
    n_units = int(index.max()) + 1 if n else 0
    rng = np.random.default_rng(seed)
    # One sample's weights lie side by side in memory, because every statistic adds up whole samples.
    weights = np.empty((n_resamples, n), dtype=np.float32, order="F")
    for row in weights:
        row[:] = np.bincount(rng.integers(n_units, size=n_units), minlength=n_units)[index]
    return weights


def weighted_ranking(
    score: ArrayLike,
    target: ArrayLike,
    known: ArrayLike | None,
    weights: NDArray[np.float32],
    threshold: float | None = None,
) -> WeightedRanking:
    """AUROC, average precision and F1 of one label on every resample, from one sort.

    Args:
        score, target: (N,); known: (N,) or None.
        weights: (B, N) from `resample_weights`.
        threshold: for f1_fixed, ``score >= threshold``; f1_fixed is NaN without one (None or NaN).

    Returns:
        Arrays (B,). Ties are one step; f1_reopt is the exact maximum over thresholds on that resample.

    Raises:
        DataError: the weights do not belong to the samples.
    """
    rows, positive, descending, start, end = _ranked(score, target, known)
    n = len(positive)
    if weights.ndim != 2 or weights.shape[1] != n:
        raise DataError(f"Weights have shape {weights.shape}; they must be (resamples, {n} samples).")
    result = np.full((4, len(weights)), np.nan)
    if not positive.any():
        return WeightedRanking(*result)
    has_threshold = threshold is not None and not np.isnan(threshold)
    called = int((descending >= threshold).sum()) if has_threshold else 0
    cuts = np.unique(np.concatenate([[0], start, end, [called, len(rows)]]))
    before, through = np.searchsorted(cuts, start), np.searchsorted(cuts, end)
    everyone = _segments(rows, cuts, np.ones(len(rows), dtype=np.float32), n)
    positives = _segments(rows, cuts, positive[rows].astype(np.float32), n)
    width = max(16, _CHUNK // n)
    for first in range(0, len(weights), width):
        drawn = np.ascontiguousarray(weights[first : first + width].T)
        total, hits = _running_sum(everyone @ drawn), _running_sum(positives @ drawn)
        n_pos, n_neg = hits[-1], total[-1] - hits[-1]
        found, counted = hits[through], total[through]
        gained = found - hits[before]
        false_above = 0.5 * (total[before] - hits[before] + counted - found)
        part = result[:, first : first + width]
        with np.errstate(divide="ignore", invalid="ignore"):
            part[0] = (gained * (n_neg - false_above)).sum(axis=0) / (n_pos * n_neg)
            part[1] = (gained * found / np.maximum(counted, 1.0)).sum(axis=0) / n_pos
            if has_threshold:
                at = np.searchsorted(cuts, called)
                part[2] = 2.0 * hits[at] / (total[at] + n_pos)
            part[3] = (2.0 * found / (counted + n_pos)).max(axis=0)
        part[1, n_neg == 0] = np.nan
        part[:, n_pos == 0] = np.nan
    return WeightedRanking(*result)


def resample_chunks(weights: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The weights (B, N) in parts (N, b) for `weighted_average_precision`; do it once before many labels."""
    width = max(16, _CHUNK // max(weights.shape[1], 1))
    return [np.ascontiguousarray(weights[k : k + width].T) for k in range(0, len(weights), width)]


def weighted_average_precision(
    score: ArrayLike, target: ArrayLike, known: ArrayLike | None, chunks: Sequence[NDArray[np.float32]]
) -> FloatArray:
    """The average precision of `weighted_ranking` alone (B,), in less than half of the time.

    Args:
        score, target: (N,); known: (N,) or None.
        chunks: of `resample_chunks`.

    Raises:
        DataError: the weights do not belong to the samples.
    """
    rows, positive, _, _, end = _ranked(score, target, known)
    n = len(positive)
    if any(len(drawn) != n for drawn in chunks):
        raise DataError(f"Weights are of {len(chunks[0])} samples, but there are {n} scores.")
    result = np.full(sum(drawn.shape[1] for drawn in chunks), np.nan)
    if not positive.any():
        return result
    cuts = np.append(0, end)
    everyone = _segments(rows, cuts, np.ones(cuts[-1], dtype=np.float32), n)
    positives = _segments(rows, cuts, positive[rows[: cuts[-1]]].astype(np.float32), n)
    behind = np.zeros(n, dtype=np.float32)
    behind[rows[cuts[-1] :]] = 1.0
    first = 0
    for drawn in chunks:
        # Resamples as rows: sums run along memory.
        gained, counted = (np.ascontiguousarray((one @ drawn).T) for one in (positives, everyone))
        found, total = (np.cumsum(one, axis=1, dtype=np.float64) for one in (gained, counted))
        n_pos, n_neg = found[:, -1].copy(), total[:, -1] - found[:, -1] + behind @ drawn
        np.maximum(total, 1.0, out=total)
        np.divide(found, total, out=found)
        with np.errstate(divide="ignore", invalid="ignore"):
            ap = np.einsum("bs,bs->b", gained, found) / n_pos
        ap[(n_neg == 0) | (n_pos == 0)] = np.nan
        result[first : first + len(ap)] = ap
        first += len(ap)
    return result


def _ranked(
    score: ArrayLike, target: ArrayLike, known: ArrayLike | None
) -> tuple[NDArray[np.intp], BoolArray, NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """Known samples from high to low scores, with the steps at which a metric of one label may change.

    Between two positives only negatives are added, which change neither AP nor the maximum of F1: the tie groups that
    hold a positive are the only steps needed.

    Returns:
        rows (n,) in falling order; positive (N,); their scores (n,); first and one-past-last place of every step.
    """
    column = np.asarray(score).reshape(-1, 1)
    given = None if known is None else np.asarray(known).reshape(-1, 1)
    values, positive, mask = scored_labels(column, np.asarray(target).reshape(-1, 1), given)
    rows = np.flatnonzero(mask[:, 0])
    rows = rows[np.argsort(-values[rows, 0], kind="stable")]
    descending = values[rows, 0].astype(np.float64)
    start, end = tie_groups(descending)
    steps = np.unique(np.searchsorted(end, np.flatnonzero(positive[rows, 0]), side="right"))
    return rows, positive[:, 0], descending, start[steps], end[steps]


def _segments(rows: NDArray[np.intp], cuts: NDArray[np.intp], count: NDArray[np.float32], n_samples: int) -> csr_array:
    """Matrix (segments, N) that sums samples, in the order `rows`, between neighbouring cuts."""
    return csr_array((count, rows[: len(count)], cuts), shape=(len(cuts) - 1, n_samples))


def _running_sum(segments: NDArray[np.float32]) -> FloatArray:
    """(S, b) to (S + 1, b), sums of the first 0, 1, ..., S rows; whole numbers, exact in float64."""
    sums = np.zeros((segments.shape[0] + 1, segments.shape[1]))
    np.cumsum(segments, axis=0, dtype=np.float64, out=sums[1:])
    return sums


def weighted_ranking_labels(
    score: ArrayLike,
    target: ArrayLike,
    known: ArrayLike | None,
    weights: NDArray[np.float32],
    threshold: float | ArrayLike | None = None,
) -> WeightedRanking:
    """`weighted_ranking` of every label: score, target, known (N, L), threshold scalar, (L,) or None; arrays (B, L)."""
    values, positive, mask = scored_labels(score, target, known)
    tau = np.broadcast_to(np.asarray(np.nan if threshold is None else threshold, dtype=np.float64), values.shape[1:])
    each = [
        weighted_ranking(values[:, label], positive[:, label], mask[:, label], weights, float(tau[label]))
        for label in range(values.shape[1])
    ]
    return WeightedRanking(
        *(np.stack([getattr(one, name) for one in each], axis=1) for name in ("auroc", "ap", "f1_fixed", "f1_reopt"))
    )


def percentile_interval(samples: ArrayLike, level: float = 0.95) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Percentile interval over resamples: samples (B, ...) to lo (...), hi (...), n_undefined (...).

    Undefined resamples (NaN) are left out and counted; lo and hi are NaN where none is defined.
    """
    array = np.asarray(samples, dtype=np.float64)
    flat = np.sort(array.reshape(len(array), -1), axis=0)
    undefined = np.isnan(flat).sum(axis=0)
    lo, hi = np.full(flat.shape[1], np.nan), np.full(flat.shape[1], np.nan)
    for column in np.flatnonzero(undefined < len(flat)):
        defined = flat[: len(flat) - undefined[column], column]
        lo[column], hi[column] = np.quantile(defined, [0.5 - level / 2, 0.5 + level / 2])
    shape = array.shape[1:]
    return lo.reshape(shape), hi.reshape(shape), undefined.reshape(shape).astype(np.int64)
