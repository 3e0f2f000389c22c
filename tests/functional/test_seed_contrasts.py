"""Means over training seeds and their differences against Student's and Welch's tests; outcomes in words."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from layerscope.functional.contrasts import contrast, outcome


def test_the_interval_over_seeds_is_students() -> None:
    per_seed = np.array([[0.01, -0.02], [0.03, 0.05], [0.04, 0.00]])
    found = contrast(per_seed, np.zeros(2), units=100)
    reference = ttest_1samp(per_seed, 0)
    interval = reference.confidence_interval()
    assert found.seeds == pytest.approx(np.stack([interval.low, interval.high]))
    # Without any variance over images both sources are the seeds alone.
    assert found.both == pytest.approx(found.seeds)
    assert found.df == pytest.approx([2, 2])
    assert found.p == pytest.approx(reference.pvalue)


def test_both_sources_add_as_in_welchs_test() -> None:
    """Seeds and images as two independent samples, whose mean difference has just this variance."""
    rng = np.random.default_rng(1)
    seeds, images = rng.normal(0.05, 0.04, 3), rng.normal(0.0, 0.3, 80)
    found = contrast((seeds - images.mean())[:, None], np.array([images.std(ddof=1) / np.sqrt(80)]), units=80)
    welch = ttest_ind(seeds, images, equal_var=False)
    assert found.both[:, 0] == pytest.approx(welch.confidence_interval())
    assert found.p[0] == pytest.approx(welch.pvalue)
    assert found.df[0] == pytest.approx(welch.df)


def test_seeds_that_are_no_pairs_are_welchs() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.normal(0.1, 0.02, (3, 2)), rng.normal(0.0, 0.05, (4, 2))
    found = contrast(one, np.zeros(2), units=100, other=other)
    welch = ttest_ind(one, other, equal_var=False)
    interval = welch.confidence_interval()
    assert found.both == pytest.approx(np.stack([interval.low, interval.high]))
    assert found.seeds == pytest.approx(found.both)
    assert found.df == pytest.approx(welch.df)
    assert found.p == pytest.approx(welch.pvalue)


@pytest.mark.parametrize(
    ("low", "high", "p", "words"),
    [
        (0.03, 0.06, 0.001, "better"),
        (0.001, 0.01, 0.02, "better, by less than .02"),
        (-0.06, -0.03, 0.001, "worse"),
        (-0.01, 0.03, 0.3, "no difference shown"),
        (-0.01, 0.01, 0.9, "no difference shown, one of .02 excluded"),
        # Adjusted for several questions it may miss significance although its own interval does not hold 0.
        (0.001, 0.03, 0.06, "no difference shown"),
        # An interval that holds 0 shows nothing whatever p is.
        (-0.005, 0.03, 0.01, "no difference shown"),
        (-0.015, 0.0, 0.01, "no difference shown, one of .02 excluded"),
        (0.0, 0.0, 1.0, "no change of ranking"),
        (float("nan"), float("nan"), float("nan"), "cannot be told"),
    ],
)
def test_outcomes_in_words(low: float, high: float, p: float, words: str) -> None:
    assert outcome(low, high, p) == words
