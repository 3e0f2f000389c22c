"""Collapse points of several runs on the same resamples, and the share of the t-curve's area that is left.

An AUROC on a resample is taken as A + (1/N) Σ (w_i - 1) ψ_i, w_i how often image i was drawn: exact to first order,
and one matrix product for all labels and steps of a run instead of a sort for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerscope.functional.collapse import collapse_points
from layerscope.functional.intervals import cluster_sums
from layerscope.functional.ranking import AurocInfluence
from layerscope.functional.scored_labels import FloatArray
from layerscope.report.conditions import ConditionGroup
from layerscope.report.label_metrics import mean_over

COLLAPSED, NOT_REACHED, AT_RECON, UNDEFINED = "collapsed", "not_reached", "collapsed_at_recon", "undefined"
STATE_FLAGS = {
    COLLAPSED: "",
    NOT_REACHED: "not reached: still recognised at the strongest noise",
    AT_RECON: "collapsed at recon: lost by the reconstruction alone",
    UNDEFINED: "undefined: AUROC on real images too near .5",
}


@dataclass(frozen=True)
class NoiseCurve:
    """Collapse points on effective log-SNR; columns are the labels, then their macro average.

    steps: (T,) effective log-SNR of the noise steps.
    state: (K,) and point: (K,), NaN unless collapsed. sample_state, sample_point: (B, K) the same of resamples.
    """

    steps: FloatArray
    state: np.ndarray
    point: FloatArray
    sample_state: np.ndarray
    sample_point: FloatArray

    def ordered(self) -> tuple[FloatArray, FloatArray]:
        """Points (K,) and of resamples (B, K) with infinities for states: -inf not reached, inf collapsed at recon."""
        return _ordered(self.state, self.point), _ordered(self.sample_state, self.sample_point)


def resampled_curve(
    steps: Sequence[ConditionGroup],
    influences: Sequence[AurocInfluence],
    group: np.ndarray | None,
    units: np.ndarray,
    judged: np.ndarray,
) -> NoiseCurve | None:
    """The collapse points of a run; None without noise steps.

    Args:
        steps: T noise steps with a finite log-SNR.
        influences: of real, recon and the steps, L labels each.
        units: (B, G) how often each unit, patient or image, was drawn.
        judged: (L,) labels of the macro average.
    """
    if not steps:
        return None
    value = np.stack([one.value for one in influences])
    sums = np.stack([cluster_sums(one.psi, group) for one in influences], axis=1)
    n_units, n_rows = len(sums), len(influences[0].psi)
    moved = (units - 1.0) @ sums.reshape(n_units, -1) / n_rows
    samples = value + moved.reshape(len(units), *value.shape)
    axis = np.array([step.log_snr for step in steps])
    eff = np.array([step.log_snr_eff for step in steps])
    order = np.argsort(axis)

    def found(curves: FloatArray) -> tuple[np.ndarray, FloatArray]:
        both = np.concatenate([curves, mean_over(curves, judged)], axis=-1)
        state, point = collapse_points(axis, np.moveaxis(both[..., 2:, :], -2, -1), both[..., 0, :], both[..., 1, :])
        # With one step `interp` answers NaN with that step.
        return state, np.where(np.isnan(point), np.nan, np.interp(point, axis[order], eff[order]))

    return NoiseCurve(eff, *found(value), *found(samples))


def common_range(curves: Sequence[NoiseCurve | None]) -> tuple[float, float] | None:
    """The effective log-SNR that all curves were measured over; None where that is no stretch."""
    if not curves or any(curve is None or len(finite_steps(curve)) < 2 for curve in curves):
        return None
    steps = [finite_steps(curve) for curve in curves if curve is not None]
    lo, hi = max(float(one.min()) for one in steps), min(float(one.max()) for one in steps)
    return (lo, hi) if hi > lo else None


def finite_steps(curve: NoiseCurve) -> FloatArray:
    """Effective log-SNR of the steps that have one."""
    return curve.steps[np.isfinite(curve.steps)]


def censored(points: FloatArray, lo: float, hi: float) -> FloatArray:
    """Points within what was measured of all runs: beyond either end they are that end; NaN stays."""
    return np.clip(points, lo, hi)


def _ordered(state: np.ndarray, point: FloatArray) -> FloatArray:
    placed = np.where(state == NOT_REACHED, -math.inf, point)
    return np.asarray(np.where(state == AT_RECON, math.inf, placed))
