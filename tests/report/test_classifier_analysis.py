"""The tables of a classifier evaluation against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from synthetic_scores import classifier_scores

from layerscope.artifacts import ClassifierScores
from layerscope.artifacts.tables import CLASSIFIER_COLUMNS
from layerscope.errors import ArtifactError
from layerscope.report.bottleneck import AnalysisSettings
from layerscope.report.classifier import RELIABILITY_COLUMNS, analyse_classifier

SETTINGS = AnalysisSettings(n_bootstrap=200)


def test_metrics_per_label_and_macro() -> None:
    scores = classifier_scores()
    cells = {(row["label"], row["metric"]): row for row in analyse_classifier(scores, SETTINGS).per_label}
    found: dict[str, list[float]] = {"auroc": [], "ap": [], "f1_fixed": []}
    for k in range(3):
        mask = scores.known[:, k]
        y, s = scores.target[mask, k], scores.logits[mask, k].astype(np.float64)
        found["auroc"].append(float(roc_auc_score(y, s)))
        found["ap"].append(float(average_precision_score(y, s)))
        found["f1_fixed"].append(float(f1_score(y, s >= scores.threshold_global)))
        row = cells[f"label{k}", "auroc"]
        assert (row["n"], row["n_pos"]) == (mask.sum(), y.sum())
        for metric, values in found.items():
            row = cells[f"label{k}", metric]
            assert row["value"] == pytest.approx(values[k])
            assert row["ci_lo"] < row["value"] < row["ci_hi"]
    for metric, values in found.items():
        assert cells["macro", metric]["value"] == pytest.approx(np.mean(values))
    micro = roc_auc_score(scores.target[scores.known], scores.logits[scores.known])
    assert cells["micro", "auroc"]["value"] == pytest.approx(micro)


def test_an_absent_label_is_a_row_with_its_reason() -> None:
    analysis = analyse_classifier(classifier_scores(absent=True), SETTINGS)
    cells = {(row["label"], row["metric"]): row for row in analysis.per_label}
    assert math.isnan(cells["label2", "auroc"]["value"])
    assert cells["label2", "auroc"]["flag"] == "undefined: no positives"
    assert cells["macro", "auroc"]["flag"] == "n_labels_used=2/3"
    assert analysis.summary_metrics["n_labels_used"] == 2
    assert {"what": "label label2", "reason": "no positives"} in analysis.not_measured


def test_reliability_bins() -> None:
    scores = classifier_scores()
    rows = [row for row in analyse_classifier(scores, SETTINGS).reliability if row["label"] == "label1"]
    mask = scores.known[:, 1]
    y, p = scores.target[mask, 1], expit(scores.logits[mask, 1].astype(np.float64))
    share, confidence = calibration_curve(y, p, n_bins=10)
    filled = [row for row in rows if row["n"] > 0]
    np.testing.assert_allclose([row["share_positive"] for row in filled], share)
    np.testing.assert_allclose([row["mean_probability"] for row in filled], confidence)
    assert sum(row["n"] for row in rows) == mask.sum()
    for row in filled:
        assert 0 <= row["ci_lo"] <= row["share_positive"] <= row["ci_hi"] <= 1


def test_rows_have_the_documented_columns() -> None:
    analysis = analyse_classifier(classifier_scores(), SETTINGS)
    assert all(tuple(row) == CLASSIFIER_COLUMNS for row in analysis.per_label)
    assert all(tuple(row) == RELIABILITY_COLUMNS for row in analysis.reliability)


def test_nothing_to_evaluate() -> None:
    scores = classifier_scores()
    empty = ClassifierScores(**{**vars(scores), "evaluated": np.zeros(3, np.bool_)})
    with pytest.raises(ArtifactError, match="0 evaluated labels"):
        analyse_classifier(empty)
