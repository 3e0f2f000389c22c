"""Intervals where AUROC shows no spread at all although the samples are ordered differently.

No sample moved past one of the other class, so the interval would be [0, 0] whatever the number of samples. Instead it
reaches to what a change may be that shows in none of m units, with confidence ``level``: 1 - (1 - level)^(1/m), about
3/m, within what AUROC can still fall or rise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerscope.report.conditions import ConditionGroup
from layerscope.report.estimates import Estimates
from layerscope.report.judged_labels import units
from layerscope.report.label_metrics import GroundTruth

SATURATED_FLAG = "no sample passed one of the other class: interval by the rule of three"


def same_order(logits: np.ndarray, others: np.ndarray) -> bool:
    """Whether scores (R, N) order the samples as the others (R, N) do, row by row; either may be one row for all."""
    if len(logits) != len(others) and 1 not in (len(logits), len(others)):
        return False
    first, second = (np.argsort(rows, axis=1, kind="stable") for rows in (logits, others))
    return bool((first == second).all())


def unseen_change(value: float, truth: GroundTruth, label: int, level: float) -> tuple[float, float]:
    """Lower and upper end of a change of AUROC that would show in none of the label's units, by the rule of three."""
    change = 1 - (1 - level) ** (1 / min(units(truth, label)))
    return -min(change, float(value)), min(change, 1 - float(value))


def with_unseen(
    delta: float, lo: float, hi: float, unseen_lo: np.ndarray, unseen_hi: np.ndarray, n_labels: int
) -> tuple[float, float]:
    """An average's interval [lo, hi] with its labels' unseen changes added as independent errors.

    unseen_lo, unseen_hi: ends of the intervals of the labels that show no spread. n_labels: labels in the average.
    """
    below = float(np.linalg.norm([lo - delta, *unseen_lo / n_labels]))
    above = float(np.linalg.norm([hi - delta, *unseen_hi / n_labels]))
    return delta - below, delta + above


def widen_saturated(
    auroc: Estimates, logits: np.ndarray, truth: GroundTruth, conditions: Sequence[ConditionGroup], level: float
) -> np.ndarray:
    """(G, L): the labels without any spread, whose intervals are widened in place; logits (R, N, L)."""
    saturated = np.zeros(auroc.value.shape, dtype=np.bool_)
    for g, condition in enumerate(conditions):
        if condition.kind == "real":
            continue
        for k in np.flatnonzero((auroc.delta[g] == 0) & (auroc.delta_se[g] == 0)):
            scores = logits[:, truth.known[:, k], k]
            if same_order(scores[list(condition.rows)], scores[:1]):
                continue
            saturated[g, k] = True
            auroc.delta_lo[g, k], auroc.delta_hi[g, k] = unseen_change(auroc.value[0, k], truth, int(k), level)
    return saturated


def widen_macro(macro: Estimates, label: Estimates, used: np.ndarray, saturated: np.ndarray) -> None:
    """Adds the saturated labels' unseen change to both ends of the macro interval.

    used: (L,) the labels that ``macro`` averages.
    """
    for g in np.flatnonzero((saturated & used).any(axis=1)):
        some = saturated[g] & used
        macro.delta_lo[g, 0], macro.delta_hi[g, 0] = with_unseen(
            float(macro.delta[g, 0]),
            float(macro.delta_lo[g, 0]),
            float(macro.delta_hi[g, 0]),
            label.delta_lo[g, some],
            label.delta_hi[g, some],
            int(used.sum()),
        )
