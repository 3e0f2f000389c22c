"""How well scores rank positives above negatives: AUROC with its influence values, average precision, F1.

Every function takes score (N, L), target (N, L) in {0, 1} and known (N, L) or None, and answers per label. A label
for which the question has no answer (no positives, no negatives) is NaN, never 0. Scores are used as they are:
logits and probabilities give the same ranks unless probabilities saturate, so pass logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerscope.errors import DataError
from layerscope.functional.scored_labels import BoolArray, FloatArray, IntArray, scored_labels


@dataclass(frozen=True)
class AurocInfluence:
    """AUROC of each label and what each sample contributes to it.

    value: (L,) in [0, 1], higher is better; NaN where a class is missing.
    psi: (N, L) influence values, summing to 0 over the samples; 0 where a label is unknown or undefined.
        The squared standard error of ``value`` is ``sum(psi**2) / N**2``; differences, means over labels or draws,
        and sums over patients of psi belong to the same combination of values.
    n_pos, n_neg: (L,) known positives and negatives.
    positive, negative: (N, L) bool, which samples they are; in a macro or micro influence, those with any.
    """

    value: FloatArray
    psi: FloatArray
    n_pos: IntArray
    n_neg: IntArray
    positive: BoolArray
    negative: BoolArray


def tie_groups(ordered: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and one-past-last positions of the runs of equal values in a sorted vector (n,); both (groups,)."""
    first = np.ones(len(ordered), dtype=np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    start = np.flatnonzero(first)
    end = np.append(start[1:], len(ordered)) if len(ordered) else start
    return start, end


def _samples_below(score: NDArray[np.floating], positive: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Per sample (n,), the number of negatives and of positives scored lower, ties counting one half."""
    order = np.argsort(score)
    start, end = tie_groups(score[order])
    negatives = np.concatenate([[0], np.cumsum(~positive[order])])
    negatives_below = 0.5 * (negatives[start] + negatives[end])
    positives_below = 0.5 * (start + end) - negatives_below
    size = end - start
    below_n, below_p = np.empty(len(score)), np.empty(len(score))
    below_n[order] = np.repeat(negatives_below, size)
    below_p[order] = np.repeat(positives_below, size)
    return below_n, below_p


def auroc_influence(score: ArrayLike, target: ArrayLike, known: ArrayLike | None = None) -> AurocInfluence:
    """AUROC per label with the influence value of every sample (DeLong, DeLong and Clarke-Pearson 1988, by ranks).

    With m positives and n negatives among N rows, V10 the share of negatives below a positive and V01 the share of
    positives above a negative (ties one half), psi is ``(N/m)(V10 - A)`` on positives and ``(N/n)(V01 - A)`` on
    negatives. Ranks by one sort (Sun and Xu 2014). Two scores with the same order give bit-identical results.

    Raises:
        DataError, NumericalError: see `scored_labels`.
    """
    values, positive, mask = scored_labels(score, target, known)
    n_rows, n_labels = values.shape
    area = np.full(n_labels, np.nan)
    psi = np.zeros((n_labels, n_rows))
    negative = mask & ~positive
    n_pos = positive.sum(axis=0).astype(np.int64)
    n_neg = negative.sum(axis=0).astype(np.int64)
    for label in np.flatnonzero((n_pos > 0) & (n_neg > 0)):
        rows = np.flatnonzero(mask[:, label])
        is_positive = positive[rows, label]
        m, n = int(n_pos[label]), int(n_neg[label])
        negatives_below, positives_below = _samples_below(values[rows, label], is_positive)
        # Counts are half-integers, exact in float64, so the area does not depend on the order of the samples.
        area[label] = negatives_below[is_positive].sum() / (m * n)
        psi[label, rows] = np.where(
            is_positive,
            (n_rows / m) * (negatives_below / n - area[label]),
            (n_rows / n) * ((m - positives_below) / m - area[label]),
        )
    return AurocInfluence(area, np.ascontiguousarray(psi.T), n_pos, n_neg, positive, negative)


def auroc(score: ArrayLike, target: ArrayLike, known: ArrayLike | None = None) -> FloatArray:
    """Area under the ROC curve per label (L,), in [0, 1], .5 for chance; ties count one half; NaN without both classes.

    >>> auroc([[0.1], [0.4], [0.35], [0.8]], [[0], [0], [1], [1]])
    array([0.75])
    """
    values, positive, mask = scored_labels(score, target, known)
    area = np.full(values.shape[1], np.nan)
    for label in range(values.shape[1]):
        is_positive = positive[mask[:, label], label]
        m, n = int(is_positive.sum()), int((~is_positive).sum())
        if m and n:
            negatives_below, _ = _samples_below(values[mask[:, label], label], is_positive)
            area[label] = negatives_below[is_positive].sum() / (m * n)
    return area


def average_precision(score: ArrayLike, target: ArrayLike, known: ArrayLike | None = None) -> FloatArray:
    """Average precision per label (L,): the sum of precision times step in recall over distinct scores.

    In (0, 1], higher is better; a random ranking gives about the prevalence. Tied scores are one step, as in
    scikit-learn. NaN where a label has no positives or no negatives.

    >>> average_precision([[0.1], [0.4], [0.35], [0.8]], [[0], [0], [1], [1]]).round(4)
    array([0.8333])
    """
    values, positive, mask = scored_labels(score, target, known)
    result = np.full(values.shape[1], np.nan)
    for label in range(values.shape[1]):
        is_positive = positive[mask[:, label], label]
        m = int(is_positive.sum())
        if 0 < m < len(is_positive):
            column = values[mask[:, label], label]
            order = np.argsort(column)[::-1]
            _, end = tie_groups(column[order])
            found = np.cumsum(is_positive[order])[end - 1]
            result[label] = np.sum(np.diff(found, prepend=0) * found / end) / m
    return result


def f1_at(score: ArrayLike, target: ArrayLike, known: ArrayLike | None, threshold: float | ArrayLike) -> FloatArray:
    """F1 per label (L,) when ``score >= threshold`` is called positive.

    Args:
        threshold: scalar or (L,), in the units of the scores; NaN gives NaN.

    Returns:
        2 TP / (2 TP + FP + FN) in [0, 1], higher is better; NaN where a label has no positives.
    """
    values, positive, mask = scored_labels(score, target, known)
    # float64 on both sides: a midpoint between neighbouring float32 scores would round onto one of them.
    tau = np.broadcast_to(np.asarray(threshold, dtype=np.float64), values.shape[1:])
    called = (values.astype(np.float64) >= tau) & mask
    hit = (called & positive).sum(axis=0)
    n_pos = positive.sum(axis=0)
    defined = (n_pos > 0) & ~np.isnan(tau)
    return np.where(defined, 2 * hit / np.maximum(called.sum(axis=0) + n_pos, 1), np.nan)


def macro(values: ArrayLike) -> tuple[float, int]:
    """Unweighted mean over the labels that are defined, and how many they are; (NaN, 0) when none is.

    >>> macro([0.9, float("nan"), 0.7])
    (0.8, 2)
    """
    array = np.asarray(values, dtype=np.float64)
    defined = array[~np.isnan(array)]
    return (float(defined.mean()), len(defined)) if len(defined) else (float("nan"), 0)


def macro_influence(influence: AurocInfluence) -> AurocInfluence:
    """Macro AUROC as a single label: value (1,), psi (N, 1); n_pos and n_neg are sums over the labels used."""
    defined = ~np.isnan(influence.value)
    value, n_used = macro(influence.value)
    psi = influence.psi[:, defined].sum(axis=1, keepdims=True) / max(n_used, 1)
    return AurocInfluence(
        np.array([value]),
        psi,
        influence.n_pos[defined].sum(keepdims=True),
        influence.n_neg[defined].sum(keepdims=True),
        np.logical_or.reduce(influence.positive[:, defined], axis=1, keepdims=True),
        np.logical_or.reduce(influence.negative[:, defined], axis=1, keepdims=True),
    )


def mean_influence(influences: Sequence[AurocInfluence]) -> AurocInfluence:
    """The average over noise draws of the same samples: metric per draw first, then the mean of the metrics.

    Raises:
        DataError: there is no draw to average.
    """
    if not influences:
        raise DataError("There are no noise draws to average: at least one AurocInfluence is needed.")
    return replace(
        influences[0],
        value=np.mean([one.value for one in influences], axis=0),
        psi=np.mean([one.psi for one in influences], axis=0),
    )


def _flattened(
    score: ArrayLike, target: ArrayLike, known: ArrayLike | None
) -> tuple[NDArray[np.floating], BoolArray, BoolArray]:
    values, positive, mask = scored_labels(score, target, known)
    return values.reshape(-1, 1), positive.reshape(-1, 1), mask.reshape(-1, 1)


def micro_auroc(score: ArrayLike, target: ArrayLike, known: ArrayLike | None = None) -> float:
    """AUROC over all known (sample, label) pairs as if they were one label; needs scores comparable across labels."""
    return float(auroc(*_flattened(score, target, known))[0])


def micro_auroc_influence(score: ArrayLike, target: ArrayLike, known: ArrayLike | None = None) -> AurocInfluence:
    """Micro AUROC as a single label, with one influence value per sample: value (1,), psi (N, 1).

    The pairs of one sample are summed, so that labels of one image count as dependent.
    """
    n_rows, n_labels = np.shape(score)
    pairs = auroc_influence(*_flattened(score, target, known))
    return replace(
        pairs,
        psi=pairs.psi.reshape(n_rows, n_labels).sum(axis=1, keepdims=True) / n_labels,
        positive=np.logical_or.reduce(pairs.positive.reshape(n_rows, n_labels), axis=1, keepdims=True),
        negative=np.logical_or.reduce(pairs.negative.reshape(n_rows, n_labels), axis=1, keepdims=True),
    )


def micro_average_precision(score: ArrayLike, target: ArrayLike, known: ArrayLike | None = None) -> float:
    """Average precision over all known (sample, label) pairs as if they were one label."""
    return float(average_precision(*_flattened(score, target, known))[0])
