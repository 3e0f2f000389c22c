"""How much of what a teacher knows is left over a range of noise: the area under the t-curve above chance.

R = ∫ (A(λ) - ½) dλ / ((A_real - ½) Δλ) over effective log-SNR λ, by the trapezoid rule between the steps: 1 where noise
takes nothing, 0 where nothing is left. R is smooth in the AUROCs, so its influence values follow by the delta method.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from layerscope.functional.scored_labels import FloatArray


def area_weights(nodes: ArrayLike, lo: float, hi: float) -> FloatArray:
    """Weights (T,) whose product with values at the nodes is the mean over [lo, hi] of the lines between them.

    Args:
        nodes: (T,) in any order; [lo, hi] lies within them, lo < hi.

    >>> area_weights([0.0, 1.0, 3.0], 0.0, 2.0)
    array([0.25 , 0.625, 0.125])
    """
    places = np.asarray(nodes, dtype=np.float64)
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    grid = np.unique(np.concatenate([[lo, hi], ordered[(ordered > lo) & (ordered < hi)]]))
    width = np.diff(grid)
    along = 0.5 * (np.append(width, 0.0) + np.append(0.0, width)) / (hi - lo)
    weights = np.empty(len(places))
    weights[order] = [along @ np.interp(grid, ordered, one) for one in np.eye(len(places))]
    return weights


def retained_area(
    auroc: FloatArray, psi: FloatArray, real: float, psi_real: FloatArray, weights: FloatArray
) -> tuple[float, FloatArray]:
    """R and its influence values (N,).

    Args:
        auroc: (T,) at the noise steps; psi: (N, T) their influence values.
        real, psi_real: of the real images, above .5; (N,).
        weights: (T,) of `area_weights`.
    """
    known = real - 0.5
    share = float((weights @ auroc - 0.5) / known)
    return share, (psi @ weights - share * psi_real) / known
