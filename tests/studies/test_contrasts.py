"""The study's intervals against a patient bootstrap and closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from studies.contrasts import Judged, auroc_contrast, shift_contrast
from studies_stand_ins import CONDITIONS, synthetic_scores

from layerscope.artifacts import BottleneckScores


def wins(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """(positives, negatives): 1 where the positive ranks above the negative, half for a tie."""
    difference = score[positive][:, None] - score[~positive][None]
    return (np.sign(difference) + 1) / 2


def test_intervals_over_images_are_those_of_a_patient_bootstrap() -> None:
    first, second = ([synthetic_scores(signal, seed) for seed in (1, 2, 3)] for signal in (1.6, 1.0))
    positive = first[0].target.astype(bool)
    draws = [row for row, name in enumerate(CONDITIONS) if name == "t52"]
    # Per label the difference in pairs won, averaged over draws and seeds: AUROC is linear in it.
    won = [
        np.mean(
            [
                wins(a.logits[r][:, k], positive[:, k]) - wins(b.logits[r][:, k], positive[:, k])
                for a, b in zip(first, second)
                for r in draws
            ],
            axis=0,
        )
        for k in (0, 1)
    ]
    shift = np.mean(
        [
            np.abs(expit(a.logits[r].astype(float)) - expit(a.logits[0].astype(float)))
            - np.abs(expit(b.logits[r].astype(float)) - expit(b.logits[0].astype(float)))
            for a, b in zip(first, second)
            for r in draws
        ],
        axis=(0, 2),
    )

    def differences(weight: np.ndarray) -> list[float]:
        """Labels and macro AUROC, then |Δp|."""
        labels = []
        for k, pairs in enumerate(won):
            m, n = weight[positive[:, k]], weight[~positive[:, k]]
            labels.append(float(m @ pairs @ n / m.sum() / n.sum()))
        return [*labels, sum(labels) / 2, float(np.average(shift, weights=weight))]

    auroc = auroc_contrast(Judged(first), Judged(second), "t52", "t52")
    moved = shift_contrast(Judged(first), Judged(second), "t52", "t52")
    expected = differences(np.ones(len(positive)))
    assert [*auroc.delta, *moved.delta] == pytest.approx(expected)

    patient = np.unique(first[0].group, return_inverse=True)[1]
    n_patients, rng = patient.max() + 1, np.random.default_rng(0)
    counts = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=1500)
    spread = np.std([differences(count[patient].astype(float)) for count in counts], axis=0)
    half_widths = np.concatenate([np.diff(auroc.images, axis=0)[0], np.diff(moved.images, axis=0)[0]]) / 2
    assert half_widths / 1.96 == pytest.approx(spread, rel=0.08)


def test_identical_arms_do_not_differ() -> None:
    arm = Judged([synthetic_scores(1.0, seed) for seed in (1, 2)])
    for found in (auroc_contrast(arm, arm, "t52", "t52"), shift_contrast(arm, arm, "t52", "t52")):
        for interval in (found.images, found.seeds, found.both):
            assert not interval.any()
        assert (found.p == 1).all()


def test_a_seed_that_saw_other_images_is_refused() -> None:
    scores = synthetic_scores(1.0, 1)
    other: BottleneckScores = replace(scores, id=scores.id[::-1])
    with pytest.raises(ValueError, match="same images"):
        Judged([scores, other])
