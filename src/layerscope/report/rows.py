"""Rows of the long tables: one value of one metric of one label under one condition."""

from __future__ import annotations

import math
from typing import Any, Literal

from layerscope.report.conditions import ConditionGroup
from layerscope.report.estimates import Estimates

Row = dict[str, Any]

MACRO, MICRO, ALL = "macro", "micro", "all"
RESERVED_LABELS = frozenset({MACRO, MICRO, ALL})


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
    return {**row, **{name: float(cell[condition, column]) for name, cell in cells.items()}}
