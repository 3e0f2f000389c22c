"""From an interval and a margin to a word."""

from __future__ import annotations

import math
from typing import Literal

from scipy.stats import norm

Verdict = Literal["bottleneck", "not a bottleneck", "inconclusive", "undefined"]

# With fewer independent units (patients, else images) of a class the intervals hold the truth too seldom: a 95 % one
# in about 64 % of redraws with 2 positives, 82 % with 5. They must not decide anything.
MIN_UNITS = 10


def too_few(units_pos: int, units_neg: int, grouped: bool) -> str:
    """Why so few independent units of a class decide nothing; empty where there are enough.

    >>> too_few(3, 200, grouped=False)
    'only 3 positives: intervals are not reliable'
    """
    units, name = min((units_pos, "positives"), (units_neg, "negatives"))
    if units >= MIN_UNITS:
        return ""
    counted = f"{units} groups with {name}" if grouped else f"{units} {name}"
    return f"only {counted}: intervals are not reliable"


def decide(delta: float, lo: float, hi: float, margin: float) -> Verdict:
    """Whether a change of AUROC is a loss that matters, is none, or cannot be told.

    Args:
        delta: condition minus original; NaN where the metric is undefined.
        lo, hi: its interval; NaN where there are too few samples for one.
        margin: the loss that would matter, not negative, in AUROC.

    Returns:
        "bottleneck" if hi < -margin, "not a bottleneck" if lo > -margin, "undefined" without a delta,
        otherwise "inconclusive". A loss that is proved but smaller than the margin is "not a bottleneck".

    >>> decide(-0.10, -0.12, -0.08, margin=0.05)
    'bottleneck'
    >>> decide(-0.01, -0.02, 0.00, margin=0.05)
    'not a bottleneck'
    """
    if math.isnan(delta):
        return "undefined"
    if hi < -margin:
        return "bottleneck"
    if lo > -margin:
        return "not a bottleneck"
    return "inconclusive"


def needed_positives(
    n_pos: int, delta: float, se: float, margin: float, level: float = 0.95, power: float = 0.8
) -> int | None:
    """About how many positives would settle an inconclusive label, if the change found is the true one.

    The standard error falls with the root of the number of positives (and negatives in proportion); the interval
    excludes -margin with probability `power` once (z_level + z_power)·se is no more than |delta + margin|.

    Returns:
        A number rounded up to two digits, never less than `n_pos`; None where no number can be told: delta or se
        undefined, or delta so near -margin that it would take more than ten million.
    """
    distance = abs(delta + margin)
    if n_pos < 1 or not math.isfinite(distance) or not math.isfinite(se):
        return None
    if distance == 0:
        return None
    z = float(norm.ppf(0.5 + level / 2) + norm.ppf(power))
    needed = n_pos * (z * se / distance) ** 2
    if needed > 1e7:
        return None
    exact = max(math.ceil(needed), n_pos)
    unit = 10 ** max(len(str(exact)) - 2, 0)
    return -(-exact // unit) * unit
