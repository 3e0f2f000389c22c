"""Training recipes against each other on the same test images and seeds: what one judge saw of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerscope.artifacts import BottleneckScores
from layerscope.functional.agreement import abs_delta_p
from layerscope.functional.contrasts import Contrast, contrast
from layerscope.functional.intervals import group_index, paired_difference, standard_error
from layerscope.functional.ranking import AurocInfluence, auroc_influence, macro_influence, mean_influence
from layerscope.report.conditions import group_conditions
from layerscope.report.evaluated import EvaluatedLabels


class Judged:
    """What one judge saw of one arm, seed by seed: AUROC with influence values and |Δp| for each condition.

    scores: one diagnosis a seed, of the same images by the same judge.
    """

    def __init__(self, scores: Sequence[BottleneckScores]) -> None:
        labels = EvaluatedLabels.of(scores[0])
        truth = labels.truth
        self.labels = [labels.display[name] for name in labels.names]
        self.positives = truth.n_pos
        self.group = group_index(np.arange(len(truth.target)) if truth.group is None else truth.group)
        self.units = int(self.group.max()) + 1
        self.seen = (scores[0].id, scores[0].logits[0])
        self.auroc: dict[str, list[AurocInfluence]] = {}
        self.shift: dict[str, list[np.ndarray]] = {}
        """Condition to one entry a seed; (N,) |Δp|, the mean over labels and noise draws."""
        for one in scores:
            _check_paired(self.seen, (one.id, one.logits[0]))
            logits = one.logits[:, :, labels.columns]
            for condition in group_conditions(one):
                draws = [auroc_influence(logits[row], truth.target, truth.known) for row in condition.rows]
                shift = [abs_delta_p(logits[0], logits[row]).mean(axis=1) for row in condition.rows]
                self.auroc.setdefault(condition.name, []).append(mean_influence(draws))
                self.shift.setdefault(condition.name, []).append(np.mean(shift, axis=0))

    @property
    def conditions(self) -> list[str]:
        """The reconstruction and the noise steps, from little to much noise."""
        return [name for name in self.auroc if name != "real"]


def auroc_contrast(arm: Judged, reference: Judged, condition: str, against: str) -> Contrast:
    """AUROC of the arm under ``condition`` minus that of the reference under ``against``: L labels, then their mean."""
    _check_paired(arm.seen, reference.seen)
    columns = []
    for form in (lambda one: one, macro_influence):
        one, other = [form(each) for each in arm.auroc[condition]], [form(each) for each in reference.auroc[against]]
        paired = paired_difference(mean_influence(other), mean_influence(one), arm.group)
        columns.append((np.stack([a.value - b.value for a, b in zip(one, other)]), paired.se))
    per_seed, se = (np.concatenate(parts, axis=-1) for parts in zip(*columns))
    return contrast(per_seed, se, arm.units)


def shift_contrast(arm: Judged, reference: Judged, condition: str, against: str) -> Contrast:
    """Mean |Δp| of the arm minus that of the reference, one column; against ``real`` images it is |Δp| itself."""
    _check_paired(arm.seen, reference.seen)
    per_image = np.stack(arm.shift[condition]) - np.stack(reference.shift[against])
    psi = per_image.mean(axis=0) - per_image.mean()
    return contrast(per_image.mean(axis=1)[:, None], standard_error(psi[:, None], arm.group), arm.units)


def _check_paired(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> None:
    """Ids of the images, and the judge's logits on the originals."""
    if not all(np.array_equal(*pair) for pair in zip(one, other)):
        raise ValueError("The diagnoses are not of the same images by the same judge, so they cannot be paired.")
