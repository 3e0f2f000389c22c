"""Figures of candidates and their differences, with the chance of test images and of training seeds.

Every estimate keeps the parts of its error, one per image unit (or resample) and one per seed, whose squares sum to its
variance: what several estimates have in common shows in them, and a simultaneous interval needs no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import t as student

from layerscope.functional.bootstrap import percentile_interval
from layerscope.functional.contrasts import contrast
from layerscope.functional.intervals import (
    ROUNDING,
    LargestDeviation,
    auroc_interval,
    cluster_sums,
    paired_difference,
)
from layerscope.functional.ranking import AurocInfluence, mean_influence
from layerscope.functional.scored_labels import FloatArray
from layerscope.report.comparison.run_figures import Resampled
from layerscope.report.estimates import two_sided_p


@dataclass(frozen=True)
class Sampling:
    """The test images: group (N,) of each or None, their number, and the level of intervals."""

    group: np.ndarray | None
    n: int
    level: float

    @cached_property
    def units(self) -> int:
        """Independent units: patients, or images."""
        return self.n if self.group is None else len(np.unique(self.group))


@dataclass(frozen=True)
class Side:
    """One side of a difference: a candidate with one entry a run. seeds: of training, empty where not known."""

    candidate: str
    seeds: tuple[str, ...]

    def pairs_with(self, other: Side) -> bool:
        """Whether the runs of both are pairs by their seeds."""
        known = all(self.seeds) and len(set(self.seeds)) == len(self.seeds)
        return known and sorted(self.seeds) == sorted(other.seeds)


@dataclass(frozen=True)
class Estimated:
    """K figures or differences: value, lo, hi, se, p, all (K,); df of Student's t, infinite for images alone.

    seed_sd: (K,) standard deviation between training seeds, NaN with one. parts: (U, K) of the error over images.
    seed_parts: seed to (K,) of the error over seeds. undefined: (K,) share of resamples without a value.
    """

    value: FloatArray
    lo: FloatArray
    hi: FloatArray
    se: FloatArray
    df: FloatArray
    p: FloatArray
    seed_sd: FloatArray
    parts: FloatArray
    seed_parts: Mapping[tuple[str, str], FloatArray]
    undefined: FloatArray


def from_images(
    side: Side,
    figures: Sequence[AurocInfluence],
    sampling: Sampling,
    other: Side | None = None,
    others: Sequence[AurocInfluence] = (),
) -> Estimated:
    """Means over the runs of figures with influence values, or ``figures`` minus ``others``."""
    mean = mean_influence(figures)
    zero = replace(mean, value=np.zeros_like(mean.value), psi=np.zeros_like(mean.psi))
    against = mean_influence(others) if others else zero
    with np.errstate(invalid="ignore"):  # infinite values have no influence
        paired = paired_difference(against, mean, sampling.group, sampling.level)
    values = np.stack([one.value for one in figures])
    other_values = np.stack([one.value for one in others]) if others else None
    alone = Estimated(
        value=paired.delta,
        lo=paired.lo,
        hi=paired.hi,
        se=paired.se,
        df=np.full(len(paired.se), math.inf),
        p=paired.p,
        seed_sd=_seed_sd(values),
        parts=cluster_sums(paired.psi, sampling.group) / sampling.n,
        seed_parts={},
        undefined=np.zeros(len(paired.se)),
    )
    return _with_seeds(alone, side, values, sampling, other, other_values)


def own_auroc(side: Side, figures: Sequence[AurocInfluence], sampling: Sampling) -> Estimated:
    """AUROC itself, with an interval that is symmetric on the logit scale, as `auroc_interval` gives one run's."""
    found = from_images(side, figures, sampling)
    mean = mean_influence(figures)
    se, lo, hi = auroc_interval(mean, sampling.group, sampling.level)
    if len(figures) > 1:
        inside = (mean.value > 0) & (mean.value < 1)
        area = np.where(inside, mean.value, 0.5)
        half = student.ppf(0.5 + sampling.level / 2, found.df) * found.se / (area * (1 - area))
        spread = np.isfinite(se) & inside
        lo = np.where(spread, expit(logit(area) - half), np.where(inside, np.nan, lo))
        hi = np.where(spread, expit(logit(area) + half), np.where(inside, np.nan, hi))
    return replace(found, lo=lo, hi=hi)


def from_resamples(
    side: Side,
    figures: Sequence[Resampled],
    sampling: Sampling,
    other: Side | None = None,
    others: Sequence[Resampled] = (),
    recentred: bool = True,
) -> Estimated:
    """The same for figures with bootstrap samples.

    recentred: the resamples are moved to have the value as their mean (`report.estimates.from_bootstrap` says why).
    p from the standard deviation of resamples: a share of them is too coarse for a correction over many differences.
    """
    mean = _mean_resampled(figures)
    if others:
        mean = mean.minus(_mean_resampled(others))
    lo, hi, n_undefined = percentile_interval(mean.samples, sampling.level)
    drawn = len(mean.samples) - n_undefined
    centre = np.nansum(mean.samples, axis=0) / np.maximum(drawn, 1)
    away = np.where(np.isnan(mean.samples), 0.0, mean.samples - centre)
    usable = np.isfinite(mean.value) & (drawn > 1)
    se = np.where(usable, np.sqrt(np.square(away).sum(axis=0) / np.maximum(drawn - 1, 1)), np.nan)
    shift = mean.value - centre if recentred else np.zeros(len(se))
    fixed = se <= ROUNDING
    same = (np.abs(mean.value) <= ROUNDING) & fixed
    value, se = np.where(same, 0.0, mean.value), np.where(fixed, 0.0, se)
    p = np.where(fixed & ~same, 2 / (len(mean.samples) + 1), two_sided_p(value, se))
    values = np.stack([one.value for one in figures])
    other_values = np.stack([one.value for one in others]) if others else None
    ends = [np.where(same, 0.0, np.where(usable, end + shift, np.nan)) for end in (lo, hi)]
    alone = Estimated(
        value=value,
        lo=ends[0],
        hi=ends[1],
        se=se,
        df=np.full(len(se), math.inf),
        p=np.where(np.isnan(se), np.nan, p),
        seed_sd=_seed_sd(values),
        parts=np.where(fixed, 0.0, away) / np.sqrt(np.maximum(drawn - 1, 1)),
        seed_parts={},
        undefined=n_undefined / len(mean.samples),
    )
    return _with_seeds(alone, side, values, sampling, other, other_values)


class Family:
    """Estimates, each a column of one, that are judged together: their simultaneous intervals and adjusted p-values.

    One estimate alone needs no correction.
    """

    # Enough for p-values of a thousandth.
    _DRAWS = 20_000

    def __init__(self, cells: Sequence[tuple[Estimated, int]], level: float, seed: int) -> None:
        defined = [(one, k) for one, k in cells if np.isfinite(one.se[k])]
        self.size = len(defined)
        self.level = level
        self._largest = None if self.size < 2 else LargestDeviation.of(_columns(defined), self._DRAWS, seed)

    def interval(self, estimated: Estimated, k: int) -> tuple[float, float]:
        """Of one of them; Student's t takes the critical value at the same probability."""
        if self._largest is None or estimated.se[k] == 0:
            ends = (estimated.lo, estimated.hi) if self._largest is None else (estimated.value, estimated.value)
            return float(ends[0][k]), float(ends[1][k])
        critical = self._largest.critical_value(self.level)
        half = float(student.isf(ndtr(-critical), estimated.df[k]) * estimated.se[k])
        return float(estimated.value[k]) - half, float(estimated.value[k]) + half

    def adjusted_p(self, estimated: Estimated, k: int) -> float:
        """Of one of them, two-sided; 1 for values that are equal."""
        p = float(estimated.p[k])
        if self._largest is None or math.isnan(p):
            return p
        if estimated.se[k] == 0:
            return min(1.0, self.size * p)
        deviation = abs(estimated.value[k]) / estimated.se[k]
        return self._largest.adjusted_p(float(-ndtri(student.sf(deviation, estimated.df[k]))))


def _columns(cells: Sequence[tuple[Estimated, int]]) -> FloatArray:
    """(G, K): the parts of each estimate's error, over images and, where the seeds are known, over seeds."""
    keys = list(dict.fromkeys(key for one, _ in cells for key in one.seed_parts))
    columns = [
        np.concatenate([one.parts[:, k], [one.seed_parts[key][k] if key in one.seed_parts else 0.0 for key in keys]])
        for one, k in cells
    ]
    return np.stack(columns, axis=1)


def _with_seeds(
    alone: Estimated,
    side: Side,
    values: FloatArray,
    sampling: Sampling,
    other: Side | None,
    other_values: FloatArray | None,
) -> Estimated:
    """The estimate with the spread between seeds added, where both sides show one; values (S, K) of the runs."""
    if len(values) < 2 or (other_values is not None and len(other_values) < 2):
        return alone
    if other is None or other_values is None:
        found = contrast(values, alone.se, sampling.units, sampling.level)
        parts = _deviations(side.candidate, range(len(values)), values)
    elif side.pairs_with(other):
        values = values - other_values[[other.seeds.index(seed) for seed in side.seeds]]
        values = np.where(np.abs(values) <= ROUNDING, 0.0, values)
        found = contrast(values, alone.se, sampling.units, sampling.level)
        parts = _deviations("", side.seeds, values)
    else:
        found = contrast(values, alone.se, sampling.units, sampling.level, other_values)
        parts = _deviations(side.candidate, range(len(values)), values)
        theirs = _deviations(other.candidate, range(len(other_values)), other_values)
        parts |= {key: -part for key, part in theirs.items()}
    return replace(alone, lo=found.both[0], hi=found.both[1], se=found.se, df=found.df, p=found.p, seed_parts=parts)


def _deviations(name: str, seeds: Iterable[object], values: FloatArray) -> dict[tuple[str, str], FloatArray]:
    away = (values - values.mean(axis=0)) / math.sqrt(len(values) * (len(values) - 1))
    return {(name, str(seed)): part for seed, part in zip(seeds, away)}


def _mean_resampled(figures: Sequence[Resampled]) -> Resampled:
    return Resampled(np.mean([one.value for one in figures], axis=0), np.mean([one.samples for one in figures], axis=0))


def _seed_sd(values: FloatArray) -> FloatArray:
    if len(values) < 2:
        return np.full(values.shape[1], np.nan)
    return np.asarray(values.std(axis=0, ddof=1))
