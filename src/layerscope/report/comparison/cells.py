"""Where the cells of a comparison stand, and its differences in either direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

from layerscope.functional.contrasts import CANNOT_BE_TOLD
from layerscope.report.comparison.result import FORCED_FLAG, REAL, RECON, SEED_FLAGS, Comparison
from layerscope.report.rows import MACRO, Row


@dataclass(frozen=True)
class Difference:
    """``candidate`` minus ``other``, with its own interval, its family's simultaneous one, p, and what it shows.

    flag: why it is missing or doubtful.
    """

    candidate: str
    other: str
    value: float
    ci_lo: float
    ci_hi: float
    sim_lo: float
    sim_hi: float
    p_adjusted: float
    outcome: str
    flag: str

    @property
    def better(self) -> bool:
        """The candidate is shown to be better, by p after correction."""
        return self.outcome.startswith("better")

    @property
    def worse(self) -> bool:
        """The candidate is shown to be worse."""
        return self.outcome.startswith("worse")

    @property
    def untold(self) -> bool:
        """The data say nothing about it."""
        return self.outcome == CANNOT_BE_TOLD

    @property
    def reason(self) -> str:
        """Why it cannot be told, from the flag."""
        return own_reason(self.flag)

    @property
    def excluded(self) -> float:
        """Differences of more than this, in either direction, are excluded; NaN without an interval."""
        return max(abs(self.sim_lo), abs(self.sim_hi)) if math.isfinite(self.sim_lo + self.sim_hi) else math.nan


def own_reason(flag: str) -> str:
    """A flag without what it says on any difference: that the comparison was forced, or has few seeds."""
    common = {FORCED_FLAG, *SEED_FLAGS.values()}
    return "; ".join(part for part in flag.split("; ") if part not in common)


def number(row: Row | None, name: str = "value") -> float:
    """A cell as a float; NaN where there is no row or no value."""
    return math.nan if row is None or row.get(name) is None else float(row[name])


def main_condition(comparison: Comparison) -> str:
    """The condition that candidates are compared under first."""
    return RECON if comparison.kind == "bottleneck" else REAL


def main_metric(comparison: Comparison) -> str:
    """The figure that candidates are compared by first."""
    return "delta_auroc" if comparison.kind == "bottleneck" else "auroc"


def places(comparison: Comparison) -> list[tuple[str, str]]:
    """Labels and conditions under which a candidate's figure may stand: what belongs to no label or no condition has
    these cells empty."""
    condition = main_condition(comparison)
    return [(MACRO, condition), ("", condition), (MACRO, ""), ("", "")]


def own(comparison: Comparison, candidate: str, metric: str) -> Row | None:
    """The candidate's row of a metric over all labels, wherever it stands."""
    found = (comparison.of(candidate, metric, label, condition) for label, condition in places(comparison))
    return next((row for row in found if row is not None), None)


def seed_rows(comparison: Comparison, candidate: str, metric: str) -> list[Row]:
    """The rows of the candidate's single runs, as ``own`` finds the candidate's; empty where there is one run only."""
    wanted = places(comparison)
    return [
        row
        for row in comparison.figures
        if row["candidate"] == candidate
        and row["run"] != ""
        and row["metric"] == metric
        and (row["label"], row["condition"]) in wanted
    ]


def measured(comparison: Comparison, metric: str) -> list[str]:
    """Candidates that have a finite value of the metric."""
    return [name for name in comparison.candidates if math.isfinite(number(own(comparison, name, metric)))]


def ranked(comparison: Comparison) -> list[str]:
    """Candidates by the main metric, the best first, equal ones in their own order; those without a value left out."""
    metric = main_metric(comparison)
    return sorted(measured(comparison, metric), key=lambda name: -number(own(comparison, name, metric)))


def reference(comparison: Comparison) -> str | None:
    """What differences are shown against: the baseline, or without one the best; None without any value."""
    return comparison.baseline if comparison.baseline is not None else next(iter(ranked(comparison)), None)


def difference(comparison: Comparison, candidate: str, other: str) -> Difference | None:
    """Macro AUROC of ``candidate`` minus that of ``other``, by whichever of both is stored; None if neither is."""
    for first, second, sign in ((candidate, other, 1.0), (other, candidate, -1.0)):
        row = comparison.pair(first, second, "auroc", MACRO, main_condition(comparison))
        if row is not None:
            return _directed(row, candidate, other, sign)
    return None


def _directed(row: Row, candidate: str, other: str, sign: float) -> Difference:
    ends = [(number(row, f"{kind}_lo"), number(row, f"{kind}_hi")) for kind in ("ci", "ci_sim")]
    (lo, hi), (sim_lo, sim_hi) = ends if sign > 0 else [(-hi, -lo) for lo, hi in ends]
    outcome = str(row["outcome"] or "")
    if sign < 0:
        word, *rest = outcome.partition(",")
        outcome = {"better": "worse", "worse": "better"}.get(word, word) + "".join(rest)
    value, p_adjusted = sign * number(row, "difference"), number(row, "p_adjusted")
    flag = str(row["flag"] or "")
    return Difference(candidate, other, value, lo, hi, sim_lo, sim_hi, p_adjusted, outcome, flag)


def label_value(comparison: Comparison, candidate: str, label: str) -> float:
    """A label's main metric of a candidate; NaN where it is undefined."""
    return number(comparison.of(candidate, main_metric(comparison), label, main_condition(comparison)))


def differences(comparison: Comparison) -> list[Difference]:
    """Of all others to the reference, in the order of candidates; what was not measured is left out."""
    base = reference(comparison)
    found = [difference(comparison, name, base) for name in comparison.candidates if name != base] if base else []
    return [one for one in found if one is not None and math.isfinite(one.value)]
