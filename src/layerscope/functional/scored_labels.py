"""The triple every statistic starts from: scores, labels, and which labels are known.

Arrays are numpy. N is the number of samples, L the number of labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerscope.errors import DataError, NumericalError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def known_mask(target: ArrayLike, known: ArrayLike | None) -> tuple[BoolArray, BoolArray]:
    """Labels and mask as booleans.

    Args:
        target: (N, L) in {0, 1}; anything where unknown.
        known: (N, L), False where a label is missing; None where all are known.

    Returns:
        positive (N, L) bool, False where unknown; known (N, L) bool.

    Raises:
        DataError: the shapes differ, or a known label is neither 0 nor 1.
    """
    labels = np.asarray(target)
    mask = np.ones(labels.shape, dtype=np.bool_) if known is None else np.asarray(known).astype(np.bool_)
    if labels.shape != mask.shape:
        raise DataError(f"Labels have shape {labels.shape} and their mask `known` {mask.shape}; both must be (N, L).")
    positive = labels == 1
    wrong = mask & ~positive & (labels != 0)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"Labels must be 0 or 1 where known, but {int(wrong.sum())} are not; the first is {labels[where]!r} at "
            f"(sample, label) = {where}. Mark missing labels in `known`."
        )
    return positive & mask, mask


def scored_labels(
    score: ArrayLike, target: ArrayLike, known: ArrayLike | None
) -> tuple[NDArray[np.floating], BoolArray, BoolArray]:
    """Checked scores, labels and mask, all (N, L).

    Returns:
        score in its own floating type, positive, known; `positive` is False where unknown.

    Raises:
        DataError: the shapes differ, or a known label is neither 0 nor 1.
        NumericalError: a score with a known label is NaN or infinite, which a ranking would hide.
    """
    values = np.asarray(score)
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    positive, mask = known_mask(target, known)
    if values.ndim != 2 or values.shape != mask.shape:
        raise DataError(
            f"Scores have shape {values.shape} and labels {mask.shape}; both must be (N, L), samples by labels."
        )
    bad = mask & ~np.isfinite(values)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise NumericalError(
            f"{int(bad.sum())} scores are NaN or infinite; the first is {values[row, column]} for sample {row}, "
            f"label {column}. Look at the model that gave it: half precision overflows, and a missing weight gives NaN."
        )
    return values, positive, mask
