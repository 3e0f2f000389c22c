"""From stored scores to the tables and the verdict of a bottleneck diagnosis. Needs no model and no image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from layerscope.artifacts.headline import Headline
from layerscope.artifacts.scores import BottleneckScores
from layerscope.errors import ConfigurationError
from layerscope.functional.intervals import benjamini_hochberg, holm, smallest_detectable_drop
from layerscope.functional.verdict import MIN_UNITS, decide, needed_positives
from layerscope.report.agreement import agreement_rows, similarity_rows
from layerscope.report.collapse import AT_OR_ABOVE, NO_ONSET_FLAG, collapse_rows
from layerscope.report.conditions import ConditionGroup, group_conditions
from layerscope.report.estimates import Estimates
from layerscope.report.evaluated import EvaluatedLabels
from layerscope.report.judged_labels import judged_labels, thin_labels, units, unrecognised
from layerscope.report.label_metrics import METRICS, GroundTruth, LabelMetrics, measure_labels
from layerscope.report.reconstruction import quality_not_measured, reconstruction_means
from layerscope.report.rows import (
    MACRO,
    MICRO,
    RESERVED_LABELS,
    Row,
    long_row,
    metric_flag,
    thresholds_missing,
    with_estimates,
)
from layerscope.report.saturation import SATURATED_FLAG, unseen_change, widen_macro, widen_saturated
from layerscope.report.sentences import overall_sentence


@dataclass(frozen=True)
class AnalysisSettings:
    """How sure, and what would matter.

    level: of all intervals and bands, in (0, 1). margin_macro, margin_label: losses of AUROC that would matter.
    n_bootstrap: resamples for AP, F1 and collapse points. seed: of resamples and bands.
    """

    level: float = 0.95
    margin_macro: float = 0.02
    margin_label: float = 0.05
    n_bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what would fail, or turn verdicts round, only after all images have been seen."""
        if not 0 < self.level < 1:
            raise ConfigurationError(f"level is {self.level}; it must lie between 0 and 1, such as 0.95 for 95 %.")
        for name in ("margin_macro", "margin_label"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}; it is a loss of AUROC as a positive number, from 0 to below 1."
                )
        if self.n_bootstrap < 1:
            raise ConfigurationError(f"n_bootstrap is {self.n_bootstrap}; at least one resample is needed.")


_LOST = "bottleneck"


@dataclass(frozen=True)
class BottleneckAnalysis:
    """Tables as lists of rows (columns in ``artifacts.tables``) and the fields of summary.json.

    per_label, t_curve, agreement: long rows. collapse: rows of collapse.csv.
    teacher_metrics_real, teacher_metrics_recon_t0: ``macro``, ``micro`` and counts. agreement_recon_t0: metric to value
    and interval. reconstruction: figure of quality to mean, interval and spread. t_curve_summary: one record per noise
    step. verdict: ``overall`` and ``per_label``.
    not_measured: records ``what`` and ``reason``. display_names: label to the name shown in figures.
    """

    per_label: list[Row]
    t_curve: list[Row]
    agreement: list[Row]
    collapse: list[Row]
    teacher_metrics_real: dict[str, Any]
    teacher_metrics_recon_t0: dict[str, Any]
    agreement_recon_t0: dict[str, Any]
    reconstruction: dict[str, dict[str, float]]
    t_curve_summary: list[dict[str, Any]]
    verdict: dict[str, Any]
    not_measured: list[dict[str, str]]
    display_names: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """The fields of summary.json that come from the statistics."""
        overall = self.verdict["overall"]
        return {
            "headline": Headline(
                "delta_auroc (macro, recon)", overall["delta_auroc"], overall["ci_lo"], overall["ci_hi"]
            ),
            "teacher_metrics_real": self.teacher_metrics_real,
            "teacher_metrics_recon_t0": self.teacher_metrics_recon_t0,
            "agreement_recon_t0": self.agreement_recon_t0,
            "reconstruction": self.reconstruction,
            "t_curve": self.t_curve_summary,
            "verdict": self.verdict,
            "not_measured": self.not_measured,
        }


def analyse_bottleneck(scores: BottleneckScores, settings: AnalysisSettings | None = None) -> BottleneckAnalysis:
    """All statistics of a diagnosis.

    Intervals are paired with the real image and clustered by group; they cover test samples and the noise draws, not
    training seeds. Labels are fixed from the ground truth; an undefined one is a row with its reason.

    Raises:
        ArtifactError: no label is evaluated, or there are no samples.
        NumericalError: a logit of a known label is not finite.
    """
    settings = settings or AnalysisSettings()
    evaluated = EvaluatedLabels.of(scores)
    names, display, truth = evaluated.names, evaluated.display, evaluated.truth
    logits = scores.logits[:, :, evaluated.columns]
    threshold_label = scores.threshold_label[evaluated.columns]
    conditions = group_conditions(scores)
    recon = next(g for g, condition in enumerate(conditions) if condition.kind == "recon")

    metrics = measure_labels(
        logits,
        truth,
        [condition.rows for condition in conditions],
        scores.threshold_global,
        threshold_label,
        settings.level,
        settings.n_bootstrap,
        settings.seed,
    )
    auroc = metrics.label["auroc"]
    saturated = widen_saturated(auroc, logits, truth, conditions, settings.level)
    widen_macro(metrics.macro["auroc"], auroc, truth.defined, saturated)
    thin = thin_labels(truth)
    _add_bands(metrics, truth, conditions, recon, saturated, settings)
    _adjust_p(auroc, conditions, recon)

    collapse = collapse_rows(
        metrics, truth, names, conditions, settings.margin_macro, settings.margin_label, settings.level, thin
    )
    agreement = agreement_rows(
        logits, truth, names, conditions, scores.threshold_global, threshold_label, settings.level
    )
    agreement += similarity_rows(scores, conditions, truth.group, settings.level)
    flip_rate = {
        row["label"]: row["value"] for row in agreement if row["condition"] == "recon" and row["metric"] == "flip_rate"
    }
    labels = [
        _label_verdict(k, name, display[name], metrics, truth, recon, collapse, flip_rate, saturated, thin[k], settings)
        for k, name in enumerate(names)
    ]
    overall = _overall_verdict(metrics, evaluated, conditions, recon, collapse, flip_rate, saturated, thin, settings)
    overall["sentence"] = overall_sentence(overall, labels, settings.level)
    return BottleneckAnalysis(
        per_label=_per_label_rows(metrics, truth, names, conditions, labels, saturated, threshold_label),
        t_curve=_t_curve_rows(metrics, truth, conditions, threshold_label, sum(map(bool, thin))),
        agreement=agreement,
        collapse=collapse,
        teacher_metrics_real=_teacher_metrics(metrics, truth, 0),
        teacher_metrics_recon_t0=_teacher_metrics(metrics, truth, recon),
        agreement_recon_t0={
            row["metric"]: {key: row[key] for key in ("value", "ci_lo", "ci_hi")}
            for row in agreement
            if row["condition"] == "recon" and row["label"] in RESERVED_LABELS
        },
        reconstruction=reconstruction_means(scores, settings.level),
        t_curve_summary=_t_curve_summary(metrics, conditions, agreement),
        verdict={"overall": overall, "per_label": labels},
        not_measured=_not_measured(scores, truth, names, conditions, metrics, settings),
        display_names=display,
    )


def _add_bands(
    metrics: LabelMetrics,
    truth: GroundTruth,
    conditions: Sequence[ConditionGroup],
    recon: int,
    saturated: np.ndarray,
    settings: AnalysisSettings,
) -> None:
    """Recon: one band over labels. Noise: one band over all steps for each label, the macro and the micro average."""
    auroc = metrics.label["auroc"]
    noise = [g for g, condition in enumerate(conditions) if condition.kind == "noise"]
    n_labels = auroc.value.shape[1]
    auroc.add_band([(recon, k) for k in range(n_labels)], truth.group, settings.level, settings.seed)
    for k in range(n_labels):
        auroc.add_band([(g, k) for g in noise], truth.group, settings.level, settings.seed)
    for pooled in (metrics.macro["auroc"], metrics.micro["auroc"]):
        pooled.add_band([(g, 0) for g in noise], truth.group, settings.level, settings.seed)
    for g, k in np.argwhere(saturated):
        if g == recon or g in noise:
            family = int(truth.defined.sum()) if g == recon else len(noise)
            level = 1 - (1 - settings.level) / family
            auroc.sim_lo[g, k], auroc.sim_hi[g, k] = unseen_change(auroc.value[0, k], truth, int(k), level)


def _adjust_p(auroc: Estimates, conditions: Sequence[ConditionGroup], recon: int) -> None:
    """Holm over labels at recon; Benjamini-Hochberg over label × t for noise, and over label × control."""
    auroc.p[recon] = holm(auroc.p[recon])
    for kind in ("noise", "control"):
        family = [g for g, condition in enumerate(conditions) if condition.kind == kind]
        if family:
            auroc.p[family] = benjamini_hochberg(auroc.p[family])


def _label_verdict(
    k: int,
    name: str,
    display: str,
    metrics: LabelMetrics,
    truth: GroundTruth,
    recon: int,
    collapse: Sequence[Row],
    flip_rate: dict[str, float],
    saturated: np.ndarray,
    thin: str,
    settings: AnalysisSettings,
) -> dict[str, Any]:
    auroc, f1 = metrics.label["auroc"], metrics.label["f1_fixed"]
    delta, lo, hi = (float(cell[recon, k]) for cell in (auroc.delta, auroc.sim_lo, auroc.sim_hi))
    se, n_pos = float(auroc.delta_se[recon, k]), int(truth.n_pos[k])
    reason = truth.reason(k).removeprefix("undefined: ")
    verdict = decide(delta, lo, hi, settings.margin_label)
    found = units(truth, k)
    unseen = unrecognised(auroc, k, "this label", settings.margin_label)
    blind = bool(unseen) and auroc.value[0, k] <= 0.5 + settings.margin_label
    if thin and not blind and not delta == lo == hi == 0:
        verdict, reason = "inconclusive", thin
    elif unseen and ((blind and thin) or verdict not in (_LOST, "undefined")):
        verdict, reason = "undefined", unseen
    needed = None
    # The level at which this label is judged alone, so that all labels together are judged at settings.level.
    level = math.erf((hi - delta) / se / math.sqrt(2)) if se > 0 else settings.level
    if verdict == "inconclusive":
        needed = needed_positives(n_pos, delta, se, settings.margin_label, level)
        if saturated[recon, k]:
            unsure = (1 - settings.level) / truth.defined.sum()
            needed = math.ceil(math.log(unsure) / math.log1p(-settings.margin_label))
        if found[1] < MIN_UNITS:
            needed = None  # more positives do not help where negatives are short; the reason says so
        elif found[0] < MIN_UNITS:
            # Positives per group stay what they are.
            needed = max(needed or 0, math.ceil(MIN_UNITS * n_pos / found[0]))
    return {
        "label": name,
        "display": display,
        "verdict": verdict,
        "reason": reason,
        "n_pos": n_pos,
        "n_neg": int(truth.n[k] - truth.n_pos[k]),
        "auroc_real": float(auroc.value[0, k]),
        "auroc_recon": float(auroc.value[recon, k]),
        "delta_auroc": delta,
        "ci_lo": lo,
        "ci_hi": hi,
        "p_holm": float(auroc.p[recon, k]),
        "margin": settings.margin_label,
        "smallest_detectable_drop": -lo if saturated[recon, k] else float(smallest_detectable_drop(se, level)),
        "needed_positives": needed,
        "score_shift": _is_shift(f1, metrics.label["f1_reopt"], recon, k) and verdict == "not a bottleneck",
        "delta_f1_fixed": float(f1.delta[recon, k]),
        "delta_f1_reopt": float(metrics.label["f1_reopt"].delta[recon, k]),
        "flip_rate": flip_rate[name],
        **_noise_fields(collapse, name),
    }


def _is_shift(fixed: Estimates, refit: Estimates, condition: int, column: int) -> bool:
    """F1 at the fixed threshold falls with certainty, and refitting the threshold brings back most of the fall."""
    falls = bool(fixed.delta_hi[condition, column] < 0)
    return falls and bool(refit.delta[condition, column] > 0.5 * fixed.delta[condition, column])


def _noise_fields(collapse: Sequence[Row], label: str) -> dict[str, Any]:
    row = next((row for row in collapse if row["label"] == label), None)
    if row is None:
        return {}
    return {
        "onset_log_snr": row["onset_log_snr"],
        "onset_t": row["onset_t"],
        "onset_withheld": NO_ONSET_FLAG in row["flag"],
        "collapse_state": row["state"],
        "collapse_is_bound": AT_OR_ABOVE in row["flag"],
        "collapse_log_snr": row["collapse_log_snr"],
        "collapse_log_snr_eff": row["collapse_log_snr_eff"],
        "collapse_t": row["collapse_t"],
    }


def _overall_verdict(
    metrics: LabelMetrics,
    evaluated: EvaluatedLabels,
    conditions: Sequence[ConditionGroup],
    recon: int,
    collapse: Sequence[Row],
    flip_rate: dict[str, float],
    saturated: np.ndarray,
    thin: Sequence[str],
    settings: AnalysisSettings,
) -> dict[str, Any]:
    """The verdict on the average of the labels; those with too few units are left out of it, and named."""
    truth = evaluated.truth
    auroc, f1, used = metrics.macro["auroc"], metrics.macro["f1_fixed"], judged_labels(truth, thin)
    enough = used.any() and not any(why for why, judged in zip(thin, used) if judged)
    left_out = [name for name, why in zip(evaluated.names, thin) if why and enough]
    if left_out:
        auroc = metrics.macro_auroc(used, truth.group, settings.level)
        widen_macro(auroc, metrics.label["auroc"], used, saturated)
    delta, lo, hi = (float(cell[recon, 0]) for cell in (auroc.delta, auroc.delta_lo, auroc.delta_hi))
    se = float(auroc.delta_se[recon, 0])
    verdict, reason = decide(delta, lo, hi, settings.margin_macro), ""
    if used.any() and not enough and not delta == lo == hi == 0:
        verdict, reason = "inconclusive", f"every label has too few samples ({next(filter(None, thin))})"
    elif verdict != _LOST and (unseen := unrecognised(auroc, 0, "the labels", settings.margin_macro)):
        verdict, reason = "undefined", unseen
    noise = [c for c in conditions if c.kind == "noise" and math.isfinite(c.log_snr)]
    needed = None
    # A saturated label shows no spread to scale from.
    if verdict == "inconclusive" and enough and not (saturated[recon] & used).any():
        # Scaled from the mean number of positives of the labels that are averaged.
        positives = round(float(truth.n_pos[used].mean()))
        needed = needed_positives(positives, delta, se, settings.margin_macro, settings.level)
    return {
        "verdict": verdict,
        "reason": reason,
        "auroc_real": float(auroc.value[0, 0]),
        "auroc_recon": float(auroc.value[recon, 0]),
        "delta_auroc": delta,
        "ci_lo": lo,
        "ci_hi": hi,
        "level": settings.level,
        "margin": settings.margin_macro,
        "smallest_detectable_drop": float(smallest_detectable_drop(se, settings.level)),
        "needed_positives": needed,
        "n_samples": len(truth.target),
        "n_groups": None if truth.group is None else len(np.unique(truth.group)),
        "n_labels": len(truth.defined),
        "n_labels_used": int(used.sum()),
        "labels_left_out": left_out,
        "score_shift": _is_shift(f1, metrics.macro["f1_reopt"], recon, 0) and verdict == "not a bottleneck",
        "delta_f1_fixed": float(f1.delta[recon, 0]),
        "delta_f1_reopt": float(metrics.macro["f1_reopt"].delta[recon, 0]),
        "flip_rate": flip_rate[MACRO],
        "nearest_control": _nearest_control(auroc, conditions, recon),
        "exceeded_control": _exceeded_control(auroc, conditions, recon),
        "n_timesteps": len(noise),
        "lowest_log_snr": min((condition.log_snr for condition in noise), default=math.nan),
        "highest_log_snr": max((condition.log_snr for condition in noise), default=math.nan),
        **_noise_fields(collapse, MACRO),
    }


def _nearest_control(auroc: Estimates, conditions: Sequence[ConditionGroup], recon: int) -> str | None:
    """The control with the most similar macro loss, if the intervals overlap and both are proved losses."""
    if not auroc.delta_hi[recon, 0] < 0:
        return None
    best: tuple[float, str] | None = None
    for g, condition in enumerate(conditions):
        if condition.kind != "control" or not auroc.delta_hi[g, 0] < 0:
            continue
        lo = max(auroc.delta_lo[g, 0], auroc.delta_lo[recon, 0])
        hi = min(auroc.delta_hi[g, 0], auroc.delta_hi[recon, 0])
        distance = abs(float(auroc.delta[g, 0] - auroc.delta[recon, 0]))
        if lo <= hi and (best is None or distance < best[0]):
            best = (distance, condition.name)
    return None if best is None else best[1]


def _exceeded_control(auroc: Estimates, conditions: Sequence[ConditionGroup], recon: int) -> str | None:
    """The worst control whose whole interval lies above that of the reconstruction."""
    exceeded = [
        (float(auroc.delta[g, 0]), condition.name)
        for g, condition in enumerate(conditions)
        if condition.kind == "control" and auroc.delta_hi[g, 0] < 0 and auroc.delta_lo[g, 0] > auroc.delta_hi[recon, 0]
    ]
    return min(exceeded)[1] if exceeded else None


def _per_label_rows(
    metrics: LabelMetrics,
    truth: GroundTruth,
    names: Sequence[str],
    conditions: Sequence[ConditionGroup],
    verdicts: Sequence[dict[str, Any]],
    saturated: np.ndarray,
    threshold_label: np.ndarray,
) -> list[Row]:
    rows = []
    n, n_pos = truth.n, truth.n_pos
    shifted = [verdict["score_shift"] for verdict in verdicts]
    for g, condition in enumerate(conditions):
        averaged: Literal["mean"] | None = "mean" if condition.kind == "noise" else None
        for k, name in enumerate(names):
            for metric in METRICS:
                if condition.kind == "noise":
                    for row, draw in zip(condition.rows, condition.draws):
                        value = metrics.row_label[metric][row, k]
                        rows.append(long_row(condition, name, metric, value, int(n[k]), int(n_pos[k]), draw))
                estimates = metrics.label[metric]
                flag = metric_flag(metric, truth, k, threshold_label)
                if metric.startswith("f1") and shifted[k] and condition.kind == "recon":
                    flag = "score shift"
                elif metric == "auroc" and saturated[g, k]:
                    flag = SATURATED_FLAG
                value = estimates.value[g, k]
                line = long_row(condition, name, metric, value, int(n[k]), int(n_pos[k]), averaged, flag)
                rows.append(with_estimates(line, estimates, g, k))
    return rows


def _t_curve_rows(
    metrics: LabelMetrics,
    truth: GroundTruth,
    conditions: Sequence[ConditionGroup],
    threshold_label: np.ndarray,
    n_thin: int,
) -> list[Row]:
    rows = []
    doubt = f"{n_thin} labels with too few positives or negatives: interval not reliable" if n_thin else ""
    n, pairs, positives = len(truth.target), int(truth.n.sum()), int(truth.n_pos.sum())
    sources = [
        (MACRO, metrics.macro, metrics.row_macro, n, None),
        (MICRO, metrics.micro, metrics.row_micro, pairs, positives),
    ]
    for g, condition in enumerate(conditions):
        for label, table, per_row, count, n_pos in sources:
            for metric, estimates in table.items():
                flags = [truth.labels_used(metric, threshold_label), doubt * (metric == "auroc")] * (label == MACRO)
                flag = "; ".join(filter(None, flags))
                noisy = condition.kind == "noise"
                if noisy:
                    for row, draw in zip(condition.rows, condition.draws):
                        rows.append(long_row(condition, label, metric, per_row[metric][row], count, n_pos, draw))
                line = long_row(
                    condition, label, metric, estimates.value[g, 0], count, n_pos, "mean" if noisy else None, flag
                )
                rows.append(with_estimates(line, estimates, g, 0))
    return rows


def _teacher_metrics(metrics: LabelMetrics, truth: GroundTruth, condition: int) -> dict[str, Any]:
    def record(estimates: Estimates) -> dict[str, float]:
        cells = {"value": estimates.value, "ci_lo": estimates.lo, "ci_hi": estimates.hi}
        if condition > 0:
            cells |= {"delta": estimates.delta, "delta_ci_lo": estimates.delta_lo, "delta_ci_hi": estimates.delta_hi}
        return {name: float(cell[condition, 0]) for name, cell in cells.items()}

    return {
        "macro": {metric: record(estimates) for metric, estimates in metrics.macro.items()},
        "micro": {metric: record(estimates) for metric, estimates in metrics.micro.items()},
        "n_samples": len(truth.target),
        "n_labels": len(truth.defined),
        "n_labels_used": int(truth.defined.sum()),
    }


def _t_curve_summary(
    metrics: LabelMetrics, conditions: Sequence[ConditionGroup], agreement: Sequence[Row]
) -> list[dict[str, Any]]:
    flips = {
        row["condition"]: row["value"]
        for row in agreement
        if row["metric"] == "flip_rate" and row["label"] == MACRO and row["draw"] in (None, "mean")
    }
    auroc = metrics.macro["auroc"]
    return [
        {
            "condition": condition.name,
            "t": condition.t,
            "log_snr": condition.log_snr,
            "log_snr_eff": condition.log_snr_eff,
            "n_draws": len(condition.rows),
            "macro_auroc": float(auroc.value[g, 0]),
            "delta_auroc": float(auroc.delta[g, 0]),
            "delta_ci_lo": float(auroc.delta_lo[g, 0]),
            "delta_ci_hi": float(auroc.delta_hi[g, 0]),
            "ci_sim_lo": float(auroc.sim_lo[g, 0]),
            "ci_sim_hi": float(auroc.sim_hi[g, 0]),
            "macro_ap": float(metrics.macro["ap"].value[g, 0]),
            "flip_rate": flips[condition.name],
        }
        for g, condition in enumerate(conditions)
        if condition.kind == "noise"
    ]


def _not_measured(
    scores: BottleneckScores,
    truth: GroundTruth,
    names: Sequence[str],
    conditions: Sequence[ConditionGroup],
    metrics: LabelMetrics,
    settings: AnalysisSettings,
) -> list[dict[str, str]]:
    missing = [
        {"what": f"label {name}", "reason": truth.reason(k).removeprefix("undefined: ")}
        for k, name in enumerate(names)
        if truth.reason(k)
    ]
    missing += thresholds_missing(truth, scores.threshold_label[scores.evaluated], names)
    kinds = {condition.kind for condition in conditions}
    if left_out := [str(name) for name, used in zip(scores.label, scores.evaluated) if not used]:
        missing.append({"what": f"labels {', '.join(left_out)}", "reason": "the label schema says evaluated: false"})
    if truth.group is None:
        reason = "the data names no groups (patients); images are taken as independent, intervals may be too narrow"
        missing.append({"what": "clustered intervals", "reason": reason})
    if "noise" not in kinds:
        missing.append({"what": "t curve, collapse and onset", "reason": "timesteps names no noise step"})
    if "control" not in kinds:
        missing.append({"what": "controls", "reason": "controls are switched off"})
    if not len(scores.similarity_name):
        missing.append({"what": "embedding and stage cosines", "reason": "the teacher shows no features"})
    elif not len(scores.similarity_null):
        missing.append({"what": "normalised cosines", "reason": "there are no pairs of different originals"})
    missing += quality_not_measured(scores)
    if math.isnan(scores.threshold_global):
        missing.append({"what": "F1 and flips at the fixed threshold", "reason": "no threshold could be fitted"})
    if metrics.n_resamples < settings.n_bootstrap:
        reason = f"{metrics.n_resamples} resamples were drawn instead of {settings.n_bootstrap} to bound the time"
        missing.append({"what": "part of the bootstrap", "reason": reason})
    missing.append({"what": "training seeds", "reason": "intervals cover test samples and noise draws only"})
    return missing
