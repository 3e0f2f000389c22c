"""What a comparison needs of one run: values with what tells their spread over images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from layerscope.artifacts.scores import BottleneckScores, ClassifierScores
from layerscope.functional.bootstrap import weighted_ranking
from layerscope.functional.intervals import mean_interval
from layerscope.functional.ranking import (
    AurocInfluence,
    auroc_influence,
    average_precision,
    macro_influence,
    mean_influence,
)
from layerscope.functional.scored_labels import FloatArray
from layerscope.report.agreement import sample_metrics
from layerscope.report.comparison.noise_curves import NoiseCurve, resampled_curve
from layerscope.report.comparison.result import REAL
from layerscope.report.comparison.runs import ComparedRun
from layerscope.report.conditions import ConditionGroup, group_conditions
from layerscope.report.estimates import macro_values
from layerscope.report.label_metrics import GroundTruth, mean_over

AGREEMENT = ("flip_rate", "negative_flip_rate", "mean_abs_delta_p")
QUALITY = ("psnr_db", "ssim", "lpips")


@dataclass(frozen=True)
class Resampled:
    """Figures without influence values: value (K,) and bootstrap samples (B, K), NaN where undefined."""

    value: FloatArray
    samples: FloatArray

    def minus(self, other: Resampled) -> Resampled:
        """The difference on the same resamples."""
        return Resampled(self.value - other.value, self.samples - other.samples)

    def column(self, k: int) -> Resampled:
        """One of the figures, as an array of one."""
        return Resampled(self.value[k : k + 1], self.samples[:, k : k + 1])


@dataclass(frozen=True)
class RunFigures:
    """Figures of one run; columns are the L labels and then their macro average unless it is said otherwise.

    conditions: name to where it lies; real, recon and the noise steps.
    auroc: condition to AUROC; of noise steps the macro average alone, one column.
    delta: the same less that on real images, without ``real``.
    label_auroc: condition to AUROC of the labels (L,), values alone.
    ap: condition to average precision, of real and recon.
    agreement: metric to its macro average at recon, one column.
    quality: metric to (N,) values of the reconstructions, infinite or NaN ones among them.
    curve: the t-curve's resamples; None without noise steps.
    """

    run: ComparedRun
    conditions: Mapping[str, ConditionGroup]
    auroc: Mapping[str, AurocInfluence]
    delta: Mapping[str, AurocInfluence]
    label_auroc: Mapping[str, FloatArray]
    ap: Mapping[str, Resampled]
    agreement: Mapping[str, AurocInfluence]
    quality: Mapping[str, FloatArray]
    curve: NoiseCurve | None

    def logits(self, condition: str) -> np.ndarray:
        """(draws, N, L) scores under a condition."""
        scores = self.run.scores.logits
        return scores[None] if scores.ndim == 2 else scores[list(self.conditions[condition].rows)]

    def label_influence(self, condition: str, truth: GroundTruth) -> AurocInfluence:
        """AUROC of the labels alone under a condition, the mean over draws."""
        return _over_draws(self.logits(condition), truth)


class Measurer:
    """Measures one run after another; what the runs share is measured once.

    judged: (L,) the labels of the macro average. weights: (B, N) of `resample_weights`, units: (B, G) the same by
    independent unit.
    """

    def __init__(self, truth: GroundTruth, judged: np.ndarray, weights: np.ndarray, units: np.ndarray) -> None:
        self.truth, self.judged, self.weights, self.units = truth, judged, weights, units
        self._real: tuple[np.ndarray, AurocInfluence, Resampled] | None = None

    def measure(self, run: ComparedRun) -> RunFigures:
        """All figures of a run of either kind."""
        scores = run.scores
        return self._classifier(run, scores) if isinstance(scores, ClassifierScores) else self._vae(run, scores)

    def _classifier(self, run: ComparedRun, scores: ClassifierScores) -> RunFigures:
        real = self._with_macro(auroc_influence(scores.logits, self.truth.target, self.truth.known))
        where = {REAL: ConditionGroup(REAL, REAL, None, np.nan, np.nan, (0,))}
        values = {REAL: real.value[:-1]}
        return RunFigures(run, where, {REAL: real}, {}, values, {REAL: self._ap(scores.logits)}, {}, {}, None)

    def _vae(self, run: ComparedRun, scores: BottleneckScores) -> RunFigures:
        truth = self.truth
        conditions = {one.name: one for one in group_conditions(scores) if one.kind != "control"}
        steps = [one for one in conditions.values() if one.kind == "noise"]
        recon = next(one.name for one in conditions.values() if one.kind == "recon")
        real, ap_real = self._real_images(scores.logits[0])
        labels = {recon: _over_draws(scores.logits[[scores.recon_row]], truth)}
        auroc = {REAL: self._with_macro(real), recon: self._with_macro(labels[recon])}
        for step in steps:
            labels[step.name] = _over_draws(scores.logits[list(step.rows)], truth)
            auroc[step.name] = self._macro(labels[step.name])
        delta = {
            name: difference(one, auroc[REAL] if name == recon else self._macro(real))
            for name, one in auroc.items()
            if name != REAL
        }
        # Pure noise (alpha 0) has no place on a log-SNR axis.
        placed = [step for step in steps if np.isfinite(step.log_snr)]
        curve = resampled_curve(
            placed, [real, labels[recon], *(labels[step.name] for step in placed)], truth.group, self.units, self.judged
        )
        return RunFigures(
            run,
            conditions,
            auroc,
            delta,
            {REAL: real.value, **{name: one.value for name, one in labels.items()}},
            {REAL: ap_real, recon: self._ap(scores.logits[scores.recon_row])},
            self._agreement(scores),
            {
                str(name): scores.quality[:, k].astype(np.float64)
                for k, name in enumerate(scores.quality_name)
                if name in QUALITY
            },
            curve,
        )

    def _real_images(self, logits: np.ndarray) -> tuple[AurocInfluence, Resampled]:
        """Of the teacher on the real images, which is the same in all runs unless devices rounded differently."""
        if self._real is None or not np.array_equal(self._real[0], logits):
            influence = auroc_influence(logits, self.truth.target, self.truth.known)
            self._real = (logits, influence, self._ap(logits))
        return self._real[1], self._real[2]

    def _ap(self, logits: np.ndarray) -> Resampled:
        truth = self.truth
        value = average_precision(logits, truth.target, truth.known)
        samples = np.full((len(self.weights), len(value)), np.nan)
        for k in np.flatnonzero(truth.defined):
            samples[:, k] = weighted_ranking(logits[:, k], truth.target[:, k], truth.known[:, k], self.weights).ap
        return Resampled(*(np.append(one, mean_over(one, self.judged), axis=-1) for one in (value, samples)))

    def _agreement(self, scores: BottleneckScores) -> dict[str, AurocInfluence]:
        truth = self.truth
        metrics = sample_metrics(scores.logits[0], truth, scores.threshold_global, scores.threshold_label)
        found = {}
        for metric in AGREEMENT:
            values = metrics[metric](scores.logits[scores.recon_row])
            counted = ~np.isnan(values)
            used = np.asarray(counted.any(axis=0))
            [pseudo] = macro_values([values], counted, used, truth.group)
            found[metric] = of_means(pseudo)
        return found

    def _macro(self, labels: AurocInfluence) -> AurocInfluence:
        return macro_influence(replace(labels, value=np.where(self.judged, labels.value, np.nan)))

    def _with_macro(self, labels: AurocInfluence) -> AurocInfluence:
        both = (labels, self._macro(labels))
        return AurocInfluence(
            *(
                np.concatenate([getattr(one, name) for one in both], axis=-1)
                for name in ("value", "psi", "n_pos", "n_neg", "positive", "negative")
            )
        )


def of_means(values: FloatArray) -> AurocInfluence:
    """Means over images as influences of the same form: values (N, K), NaN where an image does not count."""
    found = mean_interval(values)
    counted = ~np.isnan(values)
    return AurocInfluence(found.mean, found.psi, found.n, found.n, counted, counted)


def difference(one: AurocInfluence, other: AurocInfluence) -> AurocInfluence:
    """``one`` minus ``other`` on the same images."""
    return replace(one, value=one.value - other.value, psi=one.psi - other.psi)


def _over_draws(logits: np.ndarray, truth: GroundTruth) -> AurocInfluence:
    return mean_influence([auroc_influence(draw, truth.target, truth.known) for draw in logits])


def control_changes(scores: BottleneckScores, truth: GroundTruth, judged: np.ndarray) -> dict[str, float]:
    """Controls to their change of the macro average of AUROC."""
    real = auroc_influence(scores.logits[0], truth.target, truth.known).value
    return {
        one.name: float(mean_over(_over_draws(scores.logits[list(one.rows)], truth).value - real, judged)[0])
        for one in group_conditions(scores)
        if one.kind == "control"
    }
