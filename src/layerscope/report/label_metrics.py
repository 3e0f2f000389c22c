"""How well the teacher's scores agree with the ground truth, per label, macro and micro, under every condition.

Each metric is computed per noise draw and then averaged; labels are fixed from the ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from layerscope.functional.bootstrap import resample_weights, weighted_ranking
from layerscope.functional.calibration import expected_calibration_error
from layerscope.functional.intervals import mean_interval
from layerscope.functional.ranking import (
    AurocInfluence,
    auroc_influence,
    average_precision,
    f1_at,
    macro_influence,
    mean_influence,
    micro_auroc_influence,
    micro_average_precision,
)
from layerscope.functional.scored_labels import FloatArray
from layerscope.functional.thresholds import best_label_thresholds
from layerscope.report.estimates import Estimates, from_bootstrap, from_influence, from_means, macro_values

METRICS = ("auroc", "ap", "f1_fixed", "f1_fixed_label", "f1_reopt", "ece", "brier")
BOOTSTRAPPED = ("ap", "f1_fixed", "f1_fixed_label", "f1_reopt")

# Beyond this many sample-resample pairs the bootstrap of the whole table would take minutes; resamples are cut then.
_MAX_BOOTSTRAP_WORK = 2_000_000_000
_MIN_RESAMPLES = 200


@dataclass(frozen=True)
class GroundTruth:
    """Labels (N, L) with their mask, patients (N,) or None, and which labels can be ranked."""

    target: np.ndarray
    known: np.ndarray
    group: np.ndarray | None

    @property
    def n(self) -> np.ndarray:
        """(L,) known samples."""
        return self.known.sum(axis=0)

    @property
    def n_pos(self) -> np.ndarray:
        """(L,) known positives."""
        return ((self.target == 1) & self.known).sum(axis=0)

    @property
    def defined(self) -> np.ndarray:
        """(L,) labels with positives and negatives; the macro averages run over these, under every condition."""
        return (self.n_pos > 0) & (self.n_pos < self.n)

    def reason(self, label: int) -> str:
        """Why a label is undefined; empty where it is not."""
        if self.n[label] == 0:
            return "undefined: no known values"
        if self.n_pos[label] == 0:
            return "undefined: no positives"
        if self.n_pos[label] == self.n[label]:
            return "undefined: no negatives"
        return ""

    def used(self, metric: str, threshold_label: FloatArray | None) -> np.ndarray:
        """(L,) labels a metric's macro average runs over: a label without a threshold has no F1 at it."""
        if metric == "f1_fixed_label" and threshold_label is not None:
            return self.defined & ~np.isnan(threshold_label)
        return self.defined

    def labels_used(self, metric: str = "auroc", threshold_label: FloatArray | None = None) -> str:
        """``n_labels_used=4/5``; empty where the metric's macro average runs over every label."""
        used = self.used(metric, threshold_label)
        return "" if used.all() else f"n_labels_used={int(used.sum())}/{len(used)}"


@dataclass
class LabelMetrics:
    """Metrics of R score rows under G conditions, condition 0 being the real image.

    row_label: metric to (R, L). row_macro, row_micro: metric to (R,).
    label, macro, micro: metric to estimates over L, 1 and 1 columns.
    auroc_samples: (B, G, L) bootstrap of AUROC. n_resamples: B.
    influence: G influences of AUROC, for averages over some of the labels.
    """

    row_label: dict[str, FloatArray]
    row_macro: dict[str, FloatArray]
    row_micro: dict[str, FloatArray]
    label: dict[str, Estimates]
    macro: dict[str, Estimates]
    micro: dict[str, Estimates]
    auroc_samples: FloatArray
    n_resamples: int
    influence: list[AurocInfluence]

    def macro_auroc(self, labels: np.ndarray, group: np.ndarray | None, level: float) -> Estimates:
        """AUROC averaged over the labels of the mask (L,), those that are undefined left out."""
        some = [replace(one, value=np.where(labels, one.value, np.nan)) for one in self.influence]
        return from_influence([macro_influence(one) for one in some], group, level)


def measure_labels(
    logits: np.ndarray,
    truth: GroundTruth,
    rows_of: Sequence[tuple[int, ...]],
    threshold_global: float,
    threshold_label: FloatArray,
    level: float,
    n_bootstrap: int,
    seed: int,
) -> LabelMetrics:
    """All label metrics of logits (R, N, L); ``rows_of`` lists the rows of each condition, the real image first."""
    y, known, defined = truth.target, truth.known, truth.defined
    n_rows, n, n_labels = logits.shape
    row_label = {metric: np.full((n_rows, n_labels), np.nan) for metric in METRICS}
    row_micro = {metric: np.full(n_rows, np.nan) for metric in ("auroc", "ap")}
    ranked: list[AurocInfluence] = []
    pooled: list[AurocInfluence] = []
    squared_errors: list[FloatArray] = []
    for rows in rows_of:
        draws, pooled_draws, error = [], [], np.zeros((n, n_labels))
        for row in rows:
            score = logits[row]
            probability = expit(score.astype(np.float64))
            draws.append(auroc_influence(score, y, known))
            pooled_draws.append(micro_auroc_influence(score, y, known))
            squared_error = np.square(probability - (y == 1))
            error += squared_error / len(rows)
            row_micro["auroc"][row] = pooled_draws[-1].value[0]
            row_micro["ap"][row] = micro_average_precision(score, y, known)
            row_label["auroc"][row] = draws[-1].value
            row_label["ap"][row] = average_precision(score, y, known)
            row_label["f1_fixed"][row] = f1_at(score, y, known, threshold_global)
            row_label["f1_fixed_label"][row] = f1_at(score, y, known, threshold_label)
            row_label["f1_reopt"][row] = best_label_thresholds(score, y, known)[1]
            row_label["ece"][row] = expected_calibration_error(probability, y, known)
            row_label["brier"][row] = mean_interval(squared_error, None, known).mean
        ranked.append(mean_influence(draws))
        pooled.append(mean_influence(pooled_draws))
        squared_errors.append(error)
    # F1 needs positives only, but one label set serves every metric: labels without negatives stay undefined.
    for metric in ("f1_fixed", "f1_fixed_label", "f1_reopt"):
        row_label[metric][:, ~defined] = np.nan

    mean = {metric: mean_of_draws(value, rows_of) for metric, value in row_label.items()}
    samples = bootstrap_labels(logits, truth, rows_of, threshold_global, threshold_label, n_bootstrap, seed)
    label = {metric: Estimates.of_values(value) for metric, value in mean.items()}
    used = {metric: truth.used(metric, threshold_label) for metric in METRICS}
    macro = {metric: Estimates.of_values(mean_over(value, used[metric])) for metric, value in mean.items()}
    label["auroc"] = from_influence(ranked, truth.group, level)
    macro["auroc"] = from_influence([macro_influence(one) for one in ranked], truth.group, level)
    label["brier"] = from_means(squared_errors, known, truth.group, level)
    macro_errors = macro_values(squared_errors, known, defined, truth.group)
    macro["brier"] = from_means(macro_errors, np.ones((n, 1), dtype=np.bool_), truth.group, level)
    for metric in BOOTSTRAPPED:
        label[metric] = from_bootstrap(mean[metric], samples[metric], level)
        average, resampled = (mean_over(values[metric], used[metric]) for values in (mean, samples))
        macro[metric] = from_bootstrap(average, resampled, level)
    micro_mean = mean_of_draws(row_micro["ap"][:, None], rows_of)
    micro = {"auroc": from_influence(pooled, truth.group, level), "ap": Estimates.of_values(micro_mean)}
    return LabelMetrics(
        row_label=row_label,
        row_macro={metric: mean_over(value, used[metric])[:, 0] for metric, value in row_label.items()},
        row_micro=row_micro,
        label=label,
        macro=macro,
        micro=micro,
        auroc_samples=samples["auroc"],
        n_resamples=len(samples["auroc"]),
        influence=ranked,
    )


def bootstrap_labels(
    logits: np.ndarray,
    truth: GroundTruth,
    rows_of: Sequence[tuple[int, ...]],
    threshold_global: float,
    threshold_label: FloatArray,
    n_bootstrap: int,
    seed: int,
) -> dict[str, FloatArray]:
    """Resampled metrics, each (B, G, L), averaged over draws; one weight matrix for all labels and conditions."""
    n_rows, n, n_labels = logits.shape
    work = max(n_rows * n * n_labels, 1)
    n_resamples = min(n_bootstrap, max(_MIN_RESAMPLES, _MAX_BOOTSTRAP_WORK // work))
    weights = resample_weights(n, n_resamples, seed, truth.group)
    shape = (n_resamples, len(rows_of), n_labels)
    samples = {metric: np.full(shape, np.nan) for metric in ("auroc", *BOOTSTRAPPED)}
    positive = (truth.target == 1) & truth.known
    drawn_positives = weights @ positive.astype(np.float32)
    labels = np.flatnonzero(truth.defined)
    for g, rows in enumerate(rows_of):
        for metric in samples:
            samples[metric][:, g, labels] = 0.0
        for row in rows:
            for k in labels:
                one = weighted_ranking(
                    logits[row, :, k], truth.target[:, k], truth.known[:, k], weights, threshold_global
                )
                samples["auroc"][:, g, k] += one.auroc / len(rows)
                samples["ap"][:, g, k] += one.ap / len(rows)
                samples["f1_fixed"][:, g, k] += one.f1_fixed / len(rows)
                samples["f1_reopt"][:, g, k] += one.f1_reopt / len(rows)
            called = (logits[row].astype(np.float64) >= threshold_label) & truth.known
            hits = weights @ (called & positive).astype(np.float32)
            with np.errstate(invalid="ignore"):
                f1 = 2.0 * hits / (weights @ called.astype(np.float32) + drawn_positives)
            f1[:, np.isnan(threshold_label)] = np.nan
            f1[drawn_positives == 0] = np.nan
            samples["f1_fixed_label"][:, g] += f1 / len(rows)
    return samples


def mean_of_draws(value: FloatArray, rows_of: Sequence[tuple[int, ...]]) -> FloatArray:
    """(R, K) to (G, K)."""
    return np.stack([value[list(rows)].mean(axis=0) for rows in rows_of])


def mean_over(value: FloatArray, defined: np.ndarray) -> FloatArray:
    """Mean over the defined labels of the last axis, which stays with length 1; NaN if there is none."""
    if not defined.any():
        return np.full((*value.shape[:-1], 1), np.nan)
    return np.asarray(value[..., defined].mean(axis=-1, keepdims=True))
