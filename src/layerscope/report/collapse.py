"""Rows of collapse.csv: at which noise level a label is lost, and from where on damage is certain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from layerscope.functional.collapse import (
    collapse_interval,
    collapse_point,
    collapse_points,
    collapse_threshold,
    onset,
)
from layerscope.functional.scored_labels import FloatArray
from layerscope.report.conditions import ConditionGroup
from layerscope.report.estimates import Estimates
from layerscope.report.label_metrics import GroundTruth, LabelMetrics, mean_over
from layerscope.report.rows import MACRO, Row

# Between no noise and the first step nothing was measured.
NO_ONSET_FLAG = "no onset"
_NO_ONSET = {"onset_log_snr": math.nan, "onset_t": math.nan}
AT_OR_ABOVE = "lost at or above the first noise step: the point is a bound"


def collapse_rows(
    metrics: LabelMetrics,
    truth: GroundTruth,
    labels: Sequence[str],
    conditions: Sequence[ConditionGroup],
    margin_macro: float,
    margin_label: float,
    level: float,
    thin: Sequence[str],
) -> list[Row]:
    """One row per label, and the macro average. Without noise steps there is none.

    thin: per label, why it has too few units for an interval; such a label has no onset, which is a claim of certainty.
    """
    # Pure noise (alpha 0) has no place on a log-SNR axis; its AUROC stays in the other tables.
    steps = [
        g for g, condition in enumerate(conditions) if condition.kind == "noise" and math.isfinite(condition.log_snr)
    ]
    if not steps:
        return []
    recon = next(g for g, condition in enumerate(conditions) if condition.kind == "recon")
    noise = [conditions[g] for g in steps]
    rows = []
    for k, label in enumerate(labels):
        samples = metrics.auroc_samples[:, :, k]
        row = _row(label, metrics.label["auroc"], k, samples, steps, recon, noise, margin_label, level)
        weak = "undefined: AUROC on real images too near .5" if row["state"] == "undefined" else ""
        flags = [truth.reason(k) or weak or row["flag"], thin[k] and f"{NO_ONSET_FLAG}: {thin[k]}"]
        rows.append({**row, **(_NO_ONSET if thin[k] else {}), "flag": "; ".join(filter(None, flags))})
    samples = mean_over(metrics.auroc_samples, truth.defined)[:, :, 0]
    row = _row(MACRO, metrics.macro["auroc"], 0, samples, steps, recon, noise, margin_macro, level)
    n_thin = sum(map(bool, thin))
    doubt = f"{NO_ONSET_FLAG}: {n_thin} labels with too few positives or negatives" if n_thin else ""
    flag = "; ".join(filter(None, (truth.labels_used(), row["flag"], doubt)))
    return [*rows, {**row, **(_NO_ONSET if n_thin else {}), "flag": flag}]


def _row(
    label: str,
    estimates: Estimates,
    column: int,
    samples: FloatArray,
    steps: list[int],
    recon: int,
    noise: list[ConditionGroup],
    margin: float,
    level: float,
) -> Row:
    axis = np.array([condition.log_snr for condition in noise])
    value = estimates.value[:, column]
    state, point = collapse_point(axis, value[steps], float(value[0]), float(value[recon]))
    interval = collapse_interval(
        *collapse_points(axis, samples[:, steps], samples[:, 0], samples[:, recon]), level=level
    )
    first = onset(axis, estimates.sim_hi[steps, column], margin)
    defined = state != "undefined"
    return {
        "label": label,
        "auroc_real": float(value[0]),
        "auroc_recon": float(value[recon]),
        "threshold_auroc": float(collapse_threshold(value[0])),
        "state": state,
        "collapse_log_snr": point,
        "ci_lo": interval.lo if defined else math.nan,
        "ci_hi": interval.hi if defined else math.nan,
        "collapse_log_snr_eff": along(point, noise, "log_snr_eff"),
        "collapse_t": along(point, noise, "t"),
        "onset_log_snr": math.nan if first is None else first,
        "onset_t": math.nan if first is None else along(first, noise, "t"),
        "n_boot_undefined": interval.n_undefined,
        "flag": AT_OR_ABOVE if state == "collapsed" and point >= axis.max() else "",
    }


def along(log_snr: float, noise: Sequence[ConditionGroup], name: str) -> float:
    """Another property of the noise steps at a log-SNR between them, by linear interpolation; NaN for NaN."""
    if math.isnan(log_snr):
        return math.nan
    ordered = sorted(noise, key=lambda condition: condition.log_snr)
    values = [float(getattr(condition, name)) for condition in ordered]
    return float(np.interp(log_snr, [condition.log_snr for condition in ordered], values))
