"""Rows of the long tables: one value of one metric of one label under one condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from layerscope.functional.scored_labels import FloatArray
from layerscope.report.conditions import ConditionGroup
from layerscope.report.estimates import Estimates
from layerscope.report.label_metrics import GroundTruth

Row = dict[str, Any]

MACRO, MICRO, ALL = "macro", "micro", "all"
RESERVED_LABELS = frozenset({MACRO, MICRO, ALL})


# A larger share of resamples without a value makes the interval one of the luckier resamples only.
MANY_UNDEFINED = 0.05

# Below this many positives or negatives the normal approximation of the intervals is rough.
_FEW = 10


def unreserved(name: str) -> str:
    """A label's name in the tables; one that is called like an average must not be taken for it.

    >>> unreserved("drusen"), unreserved("macro")
    ('drusen', 'macro (label)')
    """
    return f"{name} (label)" if name in RESERVED_LABELS else name


def thresholds_missing(truth: GroundTruth, threshold_label: FloatArray, names: Sequence[str]) -> list[dict[str, str]]:
    """One record for the labels that could be ranked but have no threshold of their own; none where all have one."""
    missing = [names[int(k)] for k in np.flatnonzero(truth.defined & np.isnan(threshold_label))]
    if not missing:
        return []
    what = f"F1 and flips at their own threshold of {', '.join(missing)}"
    return [{"what": what, "reason": "no threshold (no positives in val)"}]


def metric_flag(metric: str, truth: GroundTruth, label: int, threshold_label: FloatArray) -> str:
    """Why a label's metric is undefined or its interval rough; empty otherwise."""
    reason = truth.reason(label)
    if reason and (metric not in ("ece", "brier") or truth.n[label] == 0):
        return reason
    if metric == "f1_fixed_label" and np.isnan(threshold_label[label]):
        return "undefined: no threshold (no positives in val)"
    if metric == "auroc" and min(truth.n_pos[label], truth.n[label] - truth.n_pos[label]) < _FEW:
        return f"fewer than {_FEW} positives or negatives: interval is rough"
    return ""


def long_row(
    condition: ConditionGroup,
    label: str,
    metric: str,
    value: float,
    n: int,
    n_pos: int | None,
    draw: int | Literal["mean"] | None = None,
    flag: str = "",
) -> Row:
    """A row with a value and no interval; all columns of ``artifacts.LONG_COLUMNS`` are there."""
    nan = math.nan
    return {
        "condition": condition.name,
        "t": condition.t,
        "log_snr": condition.log_snr,
        "log_snr_eff": condition.log_snr_eff,
        "draw": draw,
        "label": label,
        "n": n,
        "n_pos": n_pos,
        "metric": metric,
        "value": float(value),
        "ci_lo": nan,
        "ci_hi": nan,
        "ci_sim_lo": nan,
        "ci_sim_hi": nan,
        "delta": nan,
        "delta_ci_lo": nan,
        "delta_ci_hi": nan,
        "p": nan,
        "flag": flag,
    }


def with_estimates(row: Row, estimates: Estimates, condition: int, column: int) -> Row:
    """The row with intervals, difference and p of one cell of the estimates."""
    cells = {
        "ci_lo": estimates.lo,
        "ci_hi": estimates.hi,
        "ci_sim_lo": estimates.sim_lo,
        "ci_sim_hi": estimates.sim_hi,
        "delta": estimates.delta,
        "delta_ci_lo": estimates.delta_lo,
        "delta_ci_hi": estimates.delta_hi,
        "p": estimates.p,
    }
    numbers = {name: float(cell[condition, column]) for name, cell in cells.items()}
    return {**row, **numbers, "flag": with_undefined(row["flag"], estimates, condition, column)}


def with_undefined(flag: str, estimates: Estimates, condition: int, column: int) -> str:
    """The flag with the share of undefined resamples, where the value is defined and the share is large."""
    share = 0.0 if estimates.undefined is None else float(estimates.undefined[condition, column])
    if share <= MANY_UNDEFINED or math.isnan(estimates.value[condition, column]):
        return flag
    return "; ".join(filter(None, [flag, f"{100 * share:.0f} % of resamples undefined"]))
