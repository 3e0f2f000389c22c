"""Point estimates with paired intervals, for K columns (labels, or one macro column) under G conditions.

Condition 0 is the real image; every difference is taken to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtr

from layerscope.functional.bootstrap import percentile_interval
from layerscope.functional.intervals import (
    auroc_interval,
    cluster_sums,
    mean_interval,
    paired_difference,
    simultaneous_critical_value,
)
from layerscope.functional.ranking import AurocInfluence
from layerscope.functional.scored_labels import FloatArray


@dataclass
class Estimates:
    """value, lo, hi and delta, delta_lo, delta_hi, p: all (G, K), NaN where undefined or not computed.

    delta_se: (G, K) standard error of delta, NaN for bootstrapped metrics.
    sim_lo, sim_hi: (G, K) simultaneous band of delta, filled by ``add_band``.
    delta_psi: G - 1 arrays (N, K), influence of the differences of conditions 1 and up; empty where not computed.
    undefined: (G, K) share of bootstrap resamples without a value here or on the real image; None without a bootstrap.
    """

    value: FloatArray
    lo: FloatArray
    hi: FloatArray
    delta: FloatArray
    delta_lo: FloatArray
    delta_hi: FloatArray
    delta_se: FloatArray
    p: FloatArray
    sim_lo: FloatArray
    sim_hi: FloatArray
    delta_psi: list[FloatArray] = field(default_factory=list)
    undefined: FloatArray | None = None

    @classmethod
    def of_values(cls, value: FloatArray) -> Estimates:
        """Values and differences without any interval; the real image has no difference to itself."""
        delta = value - value[:1]
        delta[0] = np.nan
        nan = np.full(value.shape, np.nan)
        return cls(
            value=value,
            lo=nan.copy(),
            hi=nan.copy(),
            delta=delta,
            delta_lo=nan.copy(),
            delta_hi=nan.copy(),
            delta_se=nan.copy(),
            p=nan.copy(),
            sim_lo=nan.copy(),
            sim_hi=nan.copy(),
        )

    def add_band(self, cells: Sequence[tuple[int, int]], group: np.ndarray | None, level: float, seed: int) -> None:
        """A simultaneous band over the given (condition, column) cells, all differences at once."""
        defined = [(g, k) for g, k in cells if np.isfinite(self.delta_se[g, k])]
        if not defined:
            return
        sums = cluster_sums(np.stack([self.delta_psi[g - 1][:, k] for g, k in defined], axis=1), group)
        critical = simultaneous_critical_value(sums, level, seed=seed)
        for g, k in defined:
            half = critical * self.delta_se[g, k]
            self.sim_lo[g, k] = max(self.delta[g, k] - half, -1.0)
            self.sim_hi[g, k] = min(self.delta[g, k] + half, 1.0)


def from_influence(influences: Sequence[AurocInfluence], group: np.ndarray | None, level: float) -> Estimates:
    """AUROC of G conditions with paired DeLong intervals; each influence is averaged over draws."""
    estimates = Estimates.of_values(np.stack([one.value for one in influences]))
    for g, one in enumerate(influences):
        _, estimates.lo[g], estimates.hi[g] = auroc_interval(one, group, level)
        if g == 0:
            continue
        paired = paired_difference(influences[0], one, group, level)
        estimates.delta[g], estimates.delta_se[g], estimates.p[g] = paired.delta, paired.se, paired.p
        estimates.delta_lo[g], estimates.delta_hi[g] = np.maximum(paired.lo, -1), np.minimum(paired.hi, 1)
        estimates.delta_psi.append(paired.psi)
    return estimates


def from_means(values: Sequence[FloatArray], known: np.ndarray, group: np.ndarray | None, level: float) -> Estimates:
    """Means over samples with paired intervals: G arrays (N, K) and their mask (N, K), to (G, K)."""
    means = [mean_interval(one, group, known, level) for one in values]
    estimates = Estimates.of_values(np.stack([one.mean for one in means]))
    for g, one in enumerate(means):
        estimates.lo[g], estimates.hi[g] = one.lo, one.hi
        if g == 0:
            continue
        paired = mean_interval(values[g] - values[0], group, known, level)
        estimates.delta[g], estimates.delta_se[g] = paired.mean, paired.se
        estimates.delta_lo[g], estimates.delta_hi[g] = paired.lo, paired.hi
        estimates.p[g] = two_sided_p(paired.mean, paired.se)
    return estimates


def macro_values(
    values: Sequence[FloatArray], known: np.ndarray, used: np.ndarray, group: np.ndarray | None
) -> list[FloatArray]:
    """Per-sample values (N, 1) whose mean is the mean over the used labels of the labels' means, with its influence."""
    means = [mean_interval(one, group, known) for one in values]
    if not used.any():
        return [np.full((len(known), 1), np.nan) for _ in values]
    return [(one.mean + one.psi)[:, used].mean(axis=1, keepdims=True) for one in means]


def from_bootstrap(value: FloatArray, samples: FloatArray, level: float) -> Estimates:
    """Percentile intervals from paired resamples: value (G, K), samples (B, G, K), the same resamples for all.

    The resamples are moved to have the value as their mean: repeated samples raise AP and the refitted F1, for a mean
    over many labels by more than the width of the interval.
    """
    estimates = Estimates.of_values(value)
    estimates.lo[:], estimates.hi[:] = np.clip(_recentred_interval(samples, value, level), 0.0, 1.0)
    differences = samples[:, 1:] - samples[:, :1]
    bounds = _recentred_interval(differences, estimates.delta[1:], level)
    estimates.delta_lo[1:], estimates.delta_hi[1:] = np.clip(bounds, -1.0, 1.0)
    estimates.undefined = np.isnan(samples - samples[:, :1]).mean(axis=0)
    return estimates


def _recentred_interval(samples: FloatArray, value: FloatArray, level: float) -> FloatArray:
    """Lower and upper bounds (2, G, K), NaN where the value or every resample is undefined."""
    lo, hi, n_undefined = percentile_interval(samples, level)
    drawn = len(samples) - n_undefined
    mean = np.nansum(samples, axis=0) / np.maximum(drawn, 1)
    return np.asarray(np.where(drawn > 0, value + np.stack([lo - mean, hi - mean]), np.nan))


def two_sided_p(delta: FloatArray, se: FloatArray) -> FloatArray:
    """Two-sided p of delta = 0; 1 for identical values, NaN where delta or se is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where((delta == 0) & (se == 0), 0.0, np.abs(delta) / se)
    return np.asarray(2 * ndtr(-z))
