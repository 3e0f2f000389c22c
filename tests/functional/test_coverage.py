"""Intervals hold the truth as often as they say, over redraws of Gaussian scores with known AUROC.

A thousand redraws leave a binomial noise of 0.7 points around 95 %, so that 93-97 % is three standard deviations.
"""

import numpy as np
import pytest
from scipy.stats import norm

from layerscope.functional.intervals import (
    cluster_sums,
    mean_interval,
    normal_interval,
    paired_difference,
    simultaneous_critical_value,
    standard_error,
)
from layerscope.functional.ranking import auroc_influence, macro_influence, mean_influence

REDRAWS = 1000
D_REAL = np.array([2.0, 1.5, 1.0])
D_RECON = np.array([1.5, 1.5, 0.6])
TRUE_DELTA = norm.cdf(D_RECON / np.sqrt(2)) - norm.cdf(D_REAL / np.sqrt(2))


def draw(rng, n=300, images=1, patient_share=0.0):
    """Paired scores with correlation .7; images of a patient share the label and `patient_share` of the variance."""

    def noise():
        own = np.sqrt(1 - patient_share) * rng.standard_normal((n, 3))
        return own + np.sqrt(patient_share) * np.repeat(rng.standard_normal((n // images, 3)), images, axis=0)

    target = np.repeat((rng.random((n // images, 3)) < 0.3).astype(int), images, axis=0)
    first, second = noise(), noise()
    return D_REAL * target + first, D_RECON * target + 0.7 * first + np.sqrt(1 - 0.7**2) * second, target


def holds(difference, truth=TRUE_DELTA):
    return (difference.lo <= truth) & (truth <= difference.hi)


@pytest.mark.slow
def test_paired_intervals_per_label_macro_and_band():
    rng = np.random.default_rng(2024)
    label, macro, band = [], [], []
    for redraw in range(REDRAWS):
        score_o, score_c, target = draw(rng)
        o, c = auroc_influence(score_o, target), auroc_influence(score_c, target)
        difference = paired_difference(o, c)
        label.append(holds(difference))
        macro.append(holds(paired_difference(macro_influence(o), macro_influence(c)), TRUE_DELTA.mean()))
        critical = simultaneous_critical_value(cluster_sums(difference.psi), n_multipliers=1000, seed=redraw)
        band.append((np.abs(difference.delta - TRUE_DELTA) <= critical * difference.se).all())
    assert ((np.mean(label, axis=0) > 0.93) & (np.mean(label, axis=0) < 0.97)).all()
    assert 0.93 < np.mean(macro) < 0.97
    assert 0.93 < np.mean(band) < 0.97
    # Pointwise intervals of three labels would all hold in far fewer redraws.
    assert np.mean(np.all(label, axis=1)) < 0.91


@pytest.mark.slow
def test_four_images_per_patient_need_the_clustered_interval():
    rng = np.random.default_rng(2025)
    group = np.repeat(np.arange(150), 4)
    by_image, by_patient, macro, mean_by_patient = [], [], [], []
    for _ in range(REDRAWS):
        score_o, score_c, target = draw(rng, n=600, images=4, patient_share=0.8)
        o, c = auroc_influence(score_o, target), auroc_influence(score_c, target)
        by_image.append(holds(paired_difference(o, c)))
        by_patient.append(holds(paired_difference(o, c, group)))
        macro.append(holds(paired_difference(macro_influence(o), macro_influence(c), group), TRUE_DELTA.mean()))
        on_positives = mean_interval(np.where(target == 1, score_c, np.nan), group)
        mean_by_patient.append((on_positives.lo <= D_RECON) & (on_positives.hi >= D_RECON))
    assert np.mean(by_image) < 0.80
    assert 0.93 < np.mean(by_patient) < 0.97
    assert 0.93 < np.mean(macro) < 0.97
    assert 0.92 < np.mean(mean_by_patient) < 0.97


@pytest.mark.slow
def test_averaging_noise_draws_narrows_the_interval_and_keeps_its_coverage():
    rng = np.random.default_rng(2026)
    held, narrower = [], []
    for _ in range(400):
        target = (rng.random((300, 1)) < 0.3).astype(int)
        shared = rng.standard_normal((300, 1))
        score_o = 2.0 * target + shared
        draws = [
            auroc_influence(1.5 * target + 0.7 * shared + 0.7141428 * rng.standard_normal((300, 1)), target)
            for _ in range(4)
        ]
        o, c = auroc_influence(score_o, target), mean_influence(draws)
        difference = paired_difference(o, c)
        held.append(holds(difference, TRUE_DELTA[0])[0])
        narrower.append(difference.se[0] < standard_error(draws[0].psi - o.psi)[0])
    assert 0.92 < np.mean(held) < 0.98
    assert np.mean(narrower) > 0.95


def test_normal_interval_has_the_level_it_is_asked_for():
    lo, hi = normal_interval(0.0, 1.0, level=0.8)
    assert norm.cdf(hi) - norm.cdf(lo) == pytest.approx(0.8)
