"""The noise floor in words and in figures: what differs between images anyway, beside every difference of a pair."""

from __future__ import annotations

import numpy as np

from layerscope.artifacts.layer_scores import DIFFERENCES, FloatArray, LayerScores

_RELATIVE = DIFFERENCES.index("relative_l2")
_WORDS = {"negatives": "pairs of negatives", "same_image": "the same image twice"}


def floor_words(kind: str) -> str:
    """What is compared in a floor of that kind.

    >>> floor_words("same_image")
    'the same image twice'
    """
    return _WORDS.get(kind, kind)


def floor_relative_l2(scores: LayerScores) -> FloatArray:
    """(L,), mean of relative L2 over the floor's pairs; NaN where no floor pair has a value."""
    values = scores.floor[:, :, _RELATIVE]
    known = np.isfinite(values)
    n = known.sum(axis=0)
    return np.asarray(np.where(known, values, 0.0).sum(axis=0) / np.where(n, n, np.nan))


def floor_factor(scores: LayerScores, start: int, end: int) -> float:
    """Ratio of the floor's geometric means of relative L2 in two layers (rows), as a stage changes the floor.

    NaN without a floor, and where a floor pair does not differ in one of the two: its geometric mean is 0 there.
    """
    values = scores.floor[:, [start, end], _RELATIVE]
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values) or not (values > 0).all():
        return float("nan")
    before, behind = np.log(values).mean(axis=0)
    return float(np.exp(behind - before))
