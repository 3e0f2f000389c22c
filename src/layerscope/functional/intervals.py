"""Intervals and tests from influence values: standard errors, patients, paired differences, many labels at once.

An influence value psi_i says how much sample i moves an estimate; the estimate's squared standard error is the sum of
squares of psi over independent units, divided by N². Where one patient has several images the patient is the unit, and
psi is summed over the patient's rows first. N counts rows, never patients.

Intervals cover the choice of test samples (and noise draws that were averaged), not training seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import false_discovery_control, norm

from layerscope.errors import DataError
from layerscope.functional.ranking import AurocInfluence, auroc_influence
from layerscope.functional.scored_labels import BoolArray, FloatArray, IntArray

# Averages of identical values differ by rounding, about 1e-16; the smallest true step of an AUROC is half a pair of
# samples, 0.5 / (positives x negatives), which is larger up to a million of each.
ROUNDING = 1e-13


@dataclass(frozen=True)
class PairedDifference:
    """Condition minus original, per label (L,).

    delta: change of the metric; negative is a loss.
    se: its standard error; NaN with fewer than two positive or negative units, which cannot show a spread.
    lo, hi: bounds of the interval; [0, 0] where the rankings agree.
    p: two-sided p-value of delta = 0; 1 where the rankings agree.
    degenerate: the spread is zero although delta is not, or cannot be known: read the interval with care.
    psi: (N, L) influence values of delta, for bands, macro averages and comparisons.
    """

    delta: FloatArray
    se: FloatArray
    lo: FloatArray
    hi: FloatArray
    p: FloatArray
    degenerate: BoolArray
    psi: FloatArray


@dataclass(frozen=True)
class MeanInterval:
    """Mean over samples with its interval; all of the shape of one sample's value.

    mean, se, lo, hi: float; se, lo and hi are NaN with fewer than two units.
    n: samples that counted.
    psi: (N, ...) influence values, 0 for samples that did not count.
    """

    mean: FloatArray
    se: FloatArray
    lo: FloatArray
    hi: FloatArray
    n: IntArray
    psi: FloatArray


def group_index(group: ArrayLike) -> IntArray:
    """Groups (N,) of any type as integers 0..G-1, in sorted order; do it once before many intervals."""
    return np.unique(np.asarray(group), return_inverse=True)[1].reshape(-1).astype(np.int64)


def cluster_sums(psi: ArrayLike, group: ArrayLike | None = None) -> FloatArray:
    """Sums over the rows of each group: (N, ...) to (G, ...); without groups every row is its own.

    Args:
        psi: (N, ...) influence values.
        group: (N,) integers or strings, such as patients; None for independent rows.

    Raises:
        DataError: the number of groups given is not N.
    """
    values = np.asarray(psi, dtype=np.float64)
    if group is None:
        return values
    index = group_index(group)
    if len(index) != len(values):
        raise DataError(f"There are {len(index)} group entries for {len(values)} samples; give one group per sample.")
    order = np.argsort(index, kind="stable")
    start = np.searchsorted(index[order], np.arange(index.max() + 1)) if len(index) else index
    return np.add.reduceat(values[order], start, axis=0)


def standard_error(psi: ArrayLike, group: ArrayLike | None = None) -> FloatArray:
    """Standard error of the estimate whose influence values are psi (N, ...): shape (...)."""
    n_rows = np.shape(psi)[0]
    return np.asarray(np.sqrt(np.square(cluster_sums(psi, group)).sum(axis=0)) / n_rows)


def normal_interval(value: ArrayLike, se: ArrayLike, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Two-sided interval ``value ± z·se``; NaN where either is NaN."""
    half = norm.ppf(0.5 + level / 2) * np.asarray(se, dtype=np.float64)
    return np.asarray(value, dtype=np.float64) - half, np.asarray(value, dtype=np.float64) + half


def auroc_interval(
    influence: AurocInfluence, group: ArrayLike | None = None, level: float = 0.95
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Interval of an AUROC itself: se, lo, hi, each (L,), with lo and hi inside [0, 1].

    Symmetric on the logit scale, which keeps its coverage near 1 (Pepe 2003, section 5.2). Where the AUROC is
    exactly 0 or 1 there is no spread to see and the interval is that point. NaN with fewer than two positive or
    negative units.
    """
    se = np.where(_has_spread(influence, group), standard_error(influence.psi, group), np.nan)
    inside = (influence.value > 0) & (influence.value < 1)
    area = np.where(inside, influence.value, 0.5)
    lo, hi = normal_interval(logit(area), se / (area * (1 - area)), level)
    point = np.where(np.isnan(se), np.nan, influence.value)
    return se, np.where(inside, expit(lo), point), np.where(inside, expit(hi), point)


def _has_spread(influence: AurocInfluence, group: ArrayLike | None) -> BoolArray:
    """Labels (L,) with at least two independent units of each class; one unit always has influence zero."""
    positive_units = (cluster_sums(influence.positive, group) > 0).sum(axis=0)
    negative_units = (cluster_sums(influence.negative, group) > 0).sum(axis=0)
    return (positive_units > 1) & (negative_units > 1)


def paired_difference(
    original: AurocInfluence, condition: AurocInfluence, group: ArrayLike | None = None, level: float = 0.95
) -> PairedDifference:
    """Paired DeLong comparison of AUROCs on the same samples; also for macro, micro and averaged draws.

    The original's influence is computed once and reused for every condition. Rankings that agree give delta 0,
    interval [0, 0] and p 1.

    A large-sample interval: at 95 % it held the truth in 93-96 % of redraws with 50 and more positive units, in 91-93 %
    with 20, in 88-93 % with 10 and in 79-90 % with 5.

    Raises:
        DataError: the two do not describe the same samples and labels.
    """
    if original.psi.shape != condition.psi.shape:
        raise DataError(
            f"A paired comparison needs the same samples and labels, but the original has {original.psi.shape} "
            f"(samples, labels) and the condition {condition.psi.shape}."
        )
    psi = condition.psi - original.psi
    delta = condition.value - original.value
    se = standard_error(psi, group)
    agree = np.abs(psi).max(axis=0, initial=0.0) <= ROUNDING * len(psi)
    same = agree & (np.abs(delta) <= ROUNDING)
    defined = ~np.isnan(delta)
    delta = np.where(same, 0.0, delta)
    spread_known = _has_spread(original, group)
    se = np.where(same, 0.0, np.where(defined & spread_known, np.where(se <= ROUNDING, 0.0, se), np.nan))
    lo, hi = normal_interval(delta, se, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(same, 1.0, 2 * norm.sf(np.abs(delta / se)))
    return PairedDifference(delta, se, lo, hi, p, defined & ~same & ~(se > 0), np.where(same, 0.0, psi))


def paired_auroc_difference(
    score_o: ArrayLike,
    score_c: ArrayLike,
    target: ArrayLike,
    known: ArrayLike | None = None,
    group: ArrayLike | None = None,
    level: float = 0.95,
) -> PairedDifference:
    """AUROC of the condition's scores minus that of the original's, per label, with a paired interval.

    Args:
        score_o, score_c, target, known: (N, L); group: (N,) or None.

    >>> same = paired_auroc_difference([[0.1], [0.4], [0.3], [0.8]], [[1.0], [4.0], [3.0], [8.0]], [[0], [0], [1], [1]])
    >>> same.delta, same.lo, same.hi, same.p
    (array([0.]), array([0.]), array([0.]), array([1.]))
    """
    return paired_difference(
        auroc_influence(score_o, target, known), auroc_influence(score_c, target, known), group, level
    )


def mean_interval(
    values: ArrayLike, group: ArrayLike | None = None, known: ArrayLike | None = None, level: float = 0.95
) -> MeanInterval:
    """Mean over samples with a normal interval that respects groups and missing values.

    With a mask the mean is a ratio, sum(w·v) / sum(w), and its influence value is (N/W)·w·(v - mean).

    Args:
        values: (N, ...) floats; NaN does not count.
        group: (N,) or None.
        known: (N, ...) bool or None; False does not count either.
    """
    array = np.asarray(values, dtype=np.float64)
    counted = ~np.isnan(array) if known is None else ~np.isnan(array) & np.asarray(known).astype(np.bool_)
    n = counted.sum(axis=0)
    share = np.maximum(n, 1)
    mean = np.where(n > 0, np.where(counted, array, 0.0).sum(axis=0) / share, np.nan)
    psi = np.where(counted, (array - mean) * (len(array) / share), 0.0)
    units = (cluster_sums(counted, group) > 0).sum(axis=0)
    se = np.where(units > 1, standard_error(psi, group), np.nan)
    lo, hi = normal_interval(mean, se, level)
    return MeanInterval(mean, se, lo, hi, np.asarray(n, dtype=np.int64), psi)


@dataclass(frozen=True)
class LargestDeviation:
    """What the largest of several estimates' deviations, in standard errors, comes to by chance alone.

    The Gaussian multiplier bootstrap of max |T| (Chernozhukov, Chetverikov and Kato 2013): of
    max_k |sum_g xi_g s_gk| / ||s_k||. Given the data these statistics are jointly normal with the correlation of the
    columns, and are drawn as such, so the answer does not depend on the order of the samples.

    draws: (D,) in rising order; empty without an estimate that varies. size: K, estimates that vary.
    """

    draws: FloatArray
    size: int

    @classmethod
    def of(cls, sums: ArrayLike, n_multipliers: int = 2000, seed: int = 0) -> LargestDeviation:
        """From influence values summed over independent units, as `simultaneous_critical_value` takes them."""
        columns = np.asarray(sums, dtype=np.float64)
        norms = np.sqrt(np.square(columns).sum(axis=0))
        usable = np.isfinite(norms) & (norms > ROUNDING * len(columns))
        if not usable.any():
            return cls(np.zeros(0), 0)
        scaled = columns[:, usable] / norms[usable]
        eigenvalues, vectors = np.linalg.eigh(scaled.T @ scaled)
        root = (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ vectors.T
        draws = np.random.default_rng(seed).standard_normal((n_multipliers, int(usable.sum())))
        return cls(np.sort(np.abs(draws @ root).max(axis=1)), int(usable.sum()))

    def critical_value(self, level: float) -> float:
        """The deviation that none exceeds with probability `level`: from the pointwise quantile to Bonferroni's."""
        pointwise = float(norm.ppf(0.5 + level / 2))
        if not self.size:
            return pointwise
        bonferroni = float(norm.isf((1 - level) / (2 * self.size)))
        return min(max(pointwise, float(np.quantile(self.draws, level))), bonferroni)

    def adjusted_p(self, deviation: float) -> float:
        """How often chance alone gives one at least as large, two-sided and corrected for all at once.

        It is below 1 - level exactly where the deviation exceeds ``critical_value(level)``, so a simultaneous interval
        that leaves zero out and a p-value below its level are one statement (Westfall and Young 1993, single step).
        Between the p-value of one estimate alone and Bonferroni's.
        """
        alone = float(2 * norm.sf(deviation))
        if math.isnan(alone) or not self.size:
            return alone
        beyond = 1 - float(np.interp(deviation, self.draws, np.linspace(0, 1, len(self.draws))))
        return max(alone, min(max(beyond, 1 / len(self.draws)), self.size * alone))


def simultaneous_critical_value(
    sums: ArrayLike, level: float = 0.95, n_multipliers: int = 2000, seed: int = 0
) -> float:
    """Half-width, in standard errors, of a band that holds all K estimates at once with probability `level`.

    Args:
        sums: (G, K) influence values summed over independent units (`cluster_sums`), one column per estimate.
            Columns that are zero (rankings that agree) or hold NaN (undefined labels) do not count.
        n_multipliers: draws of the bootstrap.
        seed: of the draws.

    Returns:
        Between the pointwise normal quantile and Bonferroni's.
    """
    return LargestDeviation.of(sums, n_multipliers, seed).critical_value(level)


def _on_defined(p: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    values = np.array(p, dtype=np.float64)
    return values, ~np.isnan(values)


def holm(p: ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p-values (1979), which control the chance of any false claim; NaN passes through.

    Args:
        p: any shape; all entries that are not NaN form one family.

    >>> holm([0.01, 0.04, 0.03]).round(4)
    array([0.03, 0.06, 0.06])
    """
    values, defined = _on_defined(p)
    family = values[defined]
    order = np.argsort(family)
    stepped = np.maximum.accumulate((len(family) - np.arange(len(family))) * family[order])
    adjusted = np.empty(len(family))
    adjusted[order] = np.minimum(stepped, 1.0)
    values[defined] = adjusted
    return values


def benjamini_hochberg(p: ArrayLike) -> FloatArray:
    """Benjamini-Hochberg adjusted p-values (1995), which control the share of false claims; NaN passes through.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(4)
    array([0.03, 0.04, 0.04])
    """
    values, defined = _on_defined(p)
    if defined.any():
        values[defined] = false_discovery_control(values[defined])
    return values


def smallest_detectable_drop(se: ArrayLike, level: float = 0.95, power: float = 0.8) -> FloatArray:
    """The loss (positive number) whose two-sided test at `level` succeeds with probability `power`, given its se.

    >>> float(smallest_detectable_drop(0.01).round(4))
    0.028
    """
    return np.asarray((norm.ppf(0.5 + level / 2) + norm.ppf(power)) * np.asarray(se, dtype=np.float64))
