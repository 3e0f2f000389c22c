"""From stored scores to the tables of a classifier evaluation (E0)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from layerscope.artifacts.scores import ClassifierScores
from layerscope.functional.calibration import reliability_curve
from layerscope.report.bottleneck import AnalysisSettings
from layerscope.report.estimates import Estimates
from layerscope.report.evaluated import EvaluatedLabels
from layerscope.report.label_metrics import GroundTruth, measure_labels
from layerscope.report.rows import MACRO, MICRO, Row, metric_flag, thresholds_missing, with_undefined

RELIABILITY_COLUMNS = ("label", "bin_lo", "bin_hi", "n", "mean_probability", "share_positive", "ci_lo", "ci_hi")
"""Columns of reliability.csv."""


@dataclass(frozen=True)
class ClassifierAnalysis:
    """Tables of a classifier evaluation.

    per_label: rows with ``artifacts.tables.CLASSIFIER_COLUMNS``; labels, then ``macro`` and ``micro``.
    reliability: rows with RELIABILITY_COLUMNS; labels, then ``micro``, all known pairs together.
    summary_metrics: ``macro`` and ``micro`` metrics with intervals, and counts, for summary.json.
    """

    per_label: list[Row]
    reliability: list[Row]
    summary_metrics: dict[str, Any]
    not_measured: list[dict[str, str]]
    display_names: dict[str, str]


def analyse_classifier(scores: ClassifierScores, settings: AnalysisSettings | None = None) -> ClassifierAnalysis:
    """AUROC, AP, F1 at the thresholds, ECE and Brier per label, macro and micro, with intervals.

    Raises:
        ArtifactError: no label is evaluated, or there are no samples.
        NumericalError: a logit of a known label is not finite.
    """
    settings = settings or AnalysisSettings()
    evaluated = EvaluatedLabels.of(scores)
    names, truth = evaluated.names, evaluated.truth
    logits = scores.logits[:, evaluated.columns]
    threshold_label = scores.threshold_label[evaluated.columns]
    metrics = measure_labels(
        logits[None],
        truth,
        [(0,)],
        scores.threshold_global,
        threshold_label,
        settings.level,
        settings.n_bootstrap,
        settings.seed,
    )
    rows = []
    for k, name in enumerate(names):
        for metric, estimates in metrics.label.items():
            flag = metric_flag(metric, truth, k, threshold_label)
            rows.append(_row(name, int(truth.n[k]), int(truth.n_pos[k]), metric, estimates, k, flag))
    for metric, estimates in metrics.macro.items():
        flag = truth.labels_used(metric, threshold_label)
        rows.append(_row(MACRO, len(truth.target), None, metric, estimates, 0, flag))
    for metric, estimates in metrics.micro.items():
        rows.append(_row(MICRO, int(truth.n.sum()), int(truth.n_pos.sum()), metric, estimates, 0, ""))
    not_measured = [
        {"what": f"label {name}", "reason": truth.reason(k).removeprefix("undefined: ")}
        for k, name in enumerate(names)
        if truth.reason(k)
    ]
    not_measured += thresholds_missing(truth, threshold_label, names)
    if truth.group is None:
        reason = "the data names no groups (patients); images are taken as independent, intervals may be too narrow"
        not_measured.append({"what": "clustered intervals", "reason": reason})
    summary: dict[str, Any] = {
        label: {
            row["metric"]: {key: row[key] for key in ("value", "ci_lo", "ci_hi")}
            for row in rows
            if row["label"] == label
        }
        for label in (MACRO, MICRO)
    }
    counts = {"n_samples": len(truth.target), "n_labels": len(names), "n_labels_used": int(truth.defined.sum())}
    return ClassifierAnalysis(
        per_label=rows,
        reliability=_reliability_rows(logits, truth, names),
        summary_metrics={**summary, **counts},
        not_measured=not_measured,
        display_names=evaluated.display,
    )


def _row(label: str, n: int, n_pos: int | None, metric: str, estimates: Estimates, column: int, flag: str) -> Row:
    return {
        "label": label,
        "n": n,
        "n_pos": n_pos,
        "metric": metric,
        "value": float(estimates.value[0, column]),
        "ci_lo": float(estimates.lo[0, column]),
        "ci_hi": float(estimates.hi[0, column]),
        "flag": with_undefined(flag, estimates, 0, column),
    }


def _reliability_rows(logits: np.ndarray, truth: GroundTruth, names: Sequence[str], n_bins: int = 10) -> list[Row]:
    probability = expit(logits.astype(np.float64))
    per_label = reliability_curve(probability, truth.target, truth.known, n_bins)
    pooled = reliability_curve(
        probability.reshape(-1, 1), truth.target.reshape(-1, 1), truth.known.reshape(-1, 1), n_bins
    )
    rows = []
    for curve, labels in ((per_label, names), (pooled, [MICRO])):
        for k, label in enumerate(labels):
            for b in range(n_bins):
                n = int(curve.count[k, b])
                lo, hi = _wilson(float(curve.frequency[k, b]), n)
                rows.append(
                    {
                        "label": label,
                        "bin_lo": float(curve.edges[b]),
                        "bin_hi": float(curve.edges[b + 1]),
                        "n": n,
                        "mean_probability": float(curve.confidence[k, b]),
                        "share_positive": float(curve.frequency[k, b]),
                        "ci_lo": lo,
                        "ci_hi": hi,
                    }
                )
    return rows


def _wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share by Wilson (1927), which stays inside [0, 1]; NaN for an empty bin."""
    if n == 0:
        return math.nan, math.nan
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)
