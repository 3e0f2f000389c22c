"""What the rows of a comparison are made from: candidates with the figures of their runs, on one ground truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layerscope.functional.intervals import ROUNDING, auroc_interval
from layerscope.functional.ranking import AurocInfluence
from layerscope.functional.retained_area import area_weights, retained_area
from layerscope.functional.scored_labels import FloatArray
from layerscope.report.bottleneck import AnalysisSettings
from layerscope.report.comparison.estimation import Estimated, Sampling, Side, from_images
from layerscope.report.comparison.noise_curves import STATE_FLAGS, censored
from layerscope.report.comparison.result import REAL
from layerscope.report.comparison.run_figures import Resampled, RunFigures, of_means
from layerscope.report.label_metrics import GroundTruth
from layerscope.report.rows import MACRO
from layerscope.report.saturation import same_order, unseen_change, with_unseen


@dataclass(frozen=True)
class Candidate:
    """A candidate, or one run of it, with the figures of its runs."""

    side: Side
    figures: Sequence[RunFigures]


@dataclass(frozen=True)
class CommonGround:
    """The common ground of all candidates.

    labels: L names. thin: (L,) why a label has too few units, or empty. judged: (L,) labels of the macro average.
    unrecognised: (L + 1,) why nothing can be lost where the teacher is near chance, or empty; the last is the macro's.
    common_range: effective log-SNR that all runs were measured over, or None.
    areas: directory of a run to its retained area, one column, and why it has none.
    """

    settings: AnalysisSettings
    sampling: Sampling
    truth: GroundTruth
    labels: Sequence[str]
    thin: Sequence[str]
    judged: np.ndarray
    unrecognised: Sequence[str]
    common_range: tuple[float, float] | None
    areas: Mapping[Path, tuple[AurocInfluence, str]]

    @property
    def names(self) -> list[str]:
        """The labels, then the macro average: what columns stand for."""
        return [*self.labels, MACRO]

    def doubt(self, k: int) -> str:
        """Why a column's interval decides nothing; empty where it may."""
        if k < len(self.labels):
            return self.truth.reason(k) or self.thin[k]
        if not self.judged.any():
            return "undefined: no label has positives and negatives"
        return next((why for why, judged in zip(self.thin, self.judged) if judged and why), "")

    def flag(self, k: int) -> str:
        """What a column's rows say on it: its doubt, and how many labels a macro average runs over."""
        if k < len(self.labels) or self.judged.all():
            return self.doubt(k)
        used = f"n_labels_used={int(self.judged.sum())}/{len(self.judged)}"
        return "; ".join(filter(None, [used, self.doubt(k)]))

    # -- AUROC without any spread ---------------------------------------------------------------------------------

    def saturated(self, one: Candidate, condition: str, other: Candidate | None = None) -> np.ndarray:
        """(L,) labels whose difference shows no spread at all although the samples are ordered differently.

        Without ``other`` the difference is to the real images.
        """
        found = np.zeros(len(self.labels), dtype=np.bool_)
        against = REAL if other is None else condition
        others = one.figures if other is None else other.figures
        gaps = [
            np.mean([run.label_auroc[name] for run in runs], axis=0)
            for runs, name in ((one.figures, condition), (others, against))
        ]
        suspects = np.flatnonzero(np.abs(gaps[0] - gaps[1]) <= ROUNDING)
        if not len(suspects):
            return found
        estimated = from_images(
            one.side,
            [run.label_influence(condition, self.truth) for run in one.figures],
            self.sampling,
            one.side if other is None else other.side,
            [run.label_influence(against, self.truth) for run in others],
        )
        for k in suspects:
            if estimated.value[k] == 0 and estimated.se[k] == 0:
                known = self.truth.known[:, k]
                found[k] = not all(
                    same_order(run.logits(condition)[:, known, k], with_.logits(against)[:, known, k])
                    for run, with_ in _matched(one, other, others)
                )
        return found

    def widened(
        self,
        value: float,
        ends: tuple[float, float],
        k: int,
        saturated: np.ndarray,
        at: FloatArray,
        level: float,
    ) -> tuple[float, float]:
        """The ends of a column's interval, reaching to what a change may be that shows in no sample.

        value: the difference. k: the column. at: (L,) AUROC that the difference is taken from.
        """
        if k < len(self.labels):
            return unseen_change(float(at[k]), self.truth, k, level) if saturated[k] else ends
        some = np.flatnonzero(saturated & self.judged)
        if not len(some):
            return ends
        unseen = np.array([unseen_change(float(at[j]), self.truth, int(j), level) for j in some])
        return with_unseen(value, *ends, unseen[:, 0], unseen[:, 1], int(self.judged.sum()))

    # -- figures over the noise steps ------------------------------------------------------------------------------

    def collapse(self, run: RunFigures) -> Resampled | None:
        """Collapse points within the range common to all runs, L + 1 columns; None without one."""
        if run.curve is None or self.common_range is None:
            return None
        return Resampled(*(censored(points, *self.common_range) for points in run.curve.ordered()))


def area_of(
    run: RunFigures, common_range: tuple[float, float] | None, sampling: Sampling
) -> tuple[AurocInfluence, str]:
    """The retained area of a run over a range of effective log-SNR, one column, and why it has none."""
    real = run.auroc[REAL]
    lowest = auroc_interval(real, sampling.group, sampling.level)[1][-1]
    if common_range is None:
        why = "undefined: fewer than two noise steps, or no range common to all runs"
    else:
        why = "" if lowest > 0.5 else "undefined: AUROC on real images may be .5"
    if why or common_range is None:
        return of_means(np.full((sampling.n, 1), np.nan)), why
    steps = [one for one in run.conditions.values() if one.kind == "noise" and math.isfinite(one.log_snr_eff)]
    macro = [run.auroc[one.name] for one in steps]
    share, psi = retained_area(
        np.array([one.value[-1] for one in macro]),
        np.stack([one.psi[:, -1] for one in macro], axis=1),
        float(real.value[-1]),
        real.psi[:, -1],
        area_weights([one.log_snr_eff for one in steps], *common_range),
    )
    everyone, count = np.ones((len(psi), 1), dtype=np.bool_), np.array([len(psi)])
    return AurocInfluence(np.array([share]), psi[:, None], count, count, everyone, everyone), ""


def quality(candidate: Candidate, metric: str) -> list[FloatArray] | None:
    """(N, 1) values of each run; None where a run has none."""
    if any(metric not in run.quality for run in candidate.figures):
        return None
    return [run.quality[metric][:, None] for run in candidate.figures]


def quality_estimate(
    one: Candidate,
    values: Sequence[FloatArray],
    sampling: Sampling,
    other: Candidate | None = None,
    others: Sequence[FloatArray] = (),
) -> Estimated:
    """Mean quality, or a difference of two. An image that is equal to its original has an infinite PSNR.

    Where both sides have infinite values of the same image, that image does not differ; spread between seeds is then
    left out, for infinite means have none.
    """
    if all(np.isfinite(each).all() for each in (*values, *others)):
        side = None if other is None else other.side
        return from_images(one.side, [of_means(v) for v in values], sampling, side, [of_means(v) for v in others])
    mean = np.mean(values, axis=0)
    if others:
        theirs = np.mean(others, axis=0)
        with np.errstate(invalid="ignore"):
            mean = np.where(mean == theirs, 0.0, mean - theirs)
    if np.isinf(mean).any():
        with np.errstate(invalid="ignore"):
            value = np.array([np.nanmean(mean)])
        nan = np.full(1, np.nan)
        parts = np.zeros((sampling.units, 1))
        return Estimated(value, nan, nan, nan, np.full(1, math.inf), nan, nan, parts, {}, np.zeros(1))
    return from_images(one.side, [of_means(mean)], sampling)


def states(candidate: Candidate, k: int) -> tuple[str, bool]:
    """The collapse states of a column in words, and whether all runs have a point."""
    found: Mapping[str, str] = {
        run.run.name: str(run.curve.state[k]) for run in candidate.figures if run.curve is not None
    }
    kinds = set(found.values())
    if len(kinds) == 1:
        state = kinds.pop()
        return STATE_FLAGS[state], state == "collapsed"
    return "states differ: " + ", ".join(f"{name} {state}" for name, state in found.items()), False


def minus_real(runs: Sequence[RunFigures], condition: str) -> list[Resampled]:
    """Average precision less that on real images, of each run."""
    return [run.ap[condition].minus(run.ap[REAL]) for run in runs]


def auroc_at(candidate: Candidate, condition: str) -> FloatArray:
    """(L,) AUROC of the labels, the mean over runs."""
    return np.asarray(np.mean([run.label_auroc[condition] for run in candidate.figures], axis=0))


def influences(candidate: Candidate, condition: str, real: bool = False) -> list[AurocInfluence]:
    """AUROC of each run under a condition; with ``real`` the loss, where real images are a condition of their own."""
    return [(run.delta if real else run.auroc)[condition] for run in candidate.figures]


def _matched(
    one: Candidate, other: Candidate | None, others: Sequence[RunFigures]
) -> list[tuple[RunFigures, RunFigures]]:
    """Runs whose orders are compared: each with itself, with that of its seed, or all with all."""
    if other is None:
        return list(zip(one.figures, others))
    if one.side.pairs_with(other.side):
        return [(run, others[other.side.seeds.index(seed)]) for run, seed in zip(one.figures, one.side.seeds)]
    if len(one.figures) == len(others):
        return list(zip(one.figures, others))
    return [(run, against) for run in one.figures for against in others]
