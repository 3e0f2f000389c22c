"""Thresholds that maximise F1 exactly, by one sweep over the sorted scores.

A score at or above the threshold is called positive, and thresholds lie midway between adjacent scores, so that a
score which moves a little on another machine is not moved across. Fit them on real validation data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerscope.functional.ranking import f1_at, macro, tie_groups
from layerscope.functional.scored_labels import BoolArray, FloatArray, scored_labels


def _midpoint_below(descending: NDArray[np.floating], end: int) -> float:
    """The threshold that calls exactly the first `end` scores positive; 1 below the last where no score follows."""
    last = float(descending[end - 1])
    return last - 1.0 if end == len(descending) else 0.5 * (last + float(descending[end]))


def _f1_after_each(positive: BoolArray) -> FloatArray:
    """F1 (n,) when the first 1, 2, ..., n samples are called positive; `positive` is ordered by falling score."""
    hit = np.cumsum(positive)
    return 2.0 * hit / (np.arange(1, len(positive) + 1) + hit[-1])


def best_label_thresholds(
    logits: ArrayLike, target: ArrayLike, known: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """The threshold of each label with the largest F1, and that F1.

    Args:
        logits: (N, L); target: (N, L) in {0, 1}; known: (N, L) or None.

    Returns:
        tau (L,) in the units of the scores, f1 (L,); NaN where a label has no positives. Among equals the highest.

    >>> tau, f1 = best_label_thresholds([[-1.0], [0.0], [2.0]], [[0], [1], [1]])
    >>> tau, f1
    (array([-0.5]), array([1.]))
    """
    values, positive, mask = scored_labels(logits, target, known)
    tau = np.full(values.shape[1], np.nan)
    best = np.full(values.shape[1], np.nan)
    for label in np.flatnonzero(positive.any(axis=0)):
        column = values[mask[:, label], label]
        order = np.argsort(column)[::-1]
        descending = column[order]
        _, end = tie_groups(descending)
        f1 = _f1_after_each(positive[mask[:, label], label][order])[end - 1]
        winner = int(np.argmax(f1))
        tau[label] = _midpoint_below(descending, int(end[winner]))
        best[label] = f1[winner]
    return tau, best


def best_global_threshold(logits: ArrayLike, target: ArrayLike, known: ArrayLike | None = None) -> tuple[float, float]:
    """The single threshold for all labels with the largest macro-F1, and that macro-F1.

    Args:
        logits: (N, L); target: (N, L) in {0, 1}; known: (N, L) or None.

    Returns:
        tau, macro_f1; labels without positives do not count. (NaN, NaN) where no label has positives.
    """
    values, positive, mask = scored_labels(logits, target, known)
    scores, steps = [], []
    for label in np.flatnonzero(positive.any(axis=0)):
        column = values[mask[:, label], label]
        order = np.argsort(column)[::-1]
        scores.append(column[order])
        steps.append(np.diff(_f1_after_each(positive[mask[:, label], label][order]), prepend=0.0))
    if not scores:
        return float("nan"), float("nan")
    # Lowering the threshold past one score changes the F1 of one label only: the sum of F1 is a running sum.
    merged, step = np.concatenate(scores), np.concatenate(steps)
    order = np.argsort(-merged, kind="stable")
    descending = merged[order]
    _, end = tie_groups(descending)
    total = np.cumsum(step[order])[end - 1]
    tau = _midpoint_below(descending, int(end[int(np.argmax(total))]))
    return tau, macro(f1_at(values, positive, mask, tau))[0]
