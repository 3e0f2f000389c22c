"""The word that an interval and a margin give, and how many positives would settle the rest."""

import numpy as np
import pytest

from layerscope.functional.verdict import decide, needed_positives, too_few


@pytest.mark.parametrize(
    ("delta", "lo", "hi", "word"),
    [
        (-0.10, -0.12, -0.08, "bottleneck"),
        (-0.03, -0.04, -0.02, "not a bottleneck"),
        (0.0, 0.0, 0.0, "not a bottleneck"),
        (-0.04, -0.08, 0.0, "inconclusive"),
        (-0.10, -0.15, -0.05, "inconclusive"),
        (-0.10, np.nan, np.nan, "inconclusive"),
        (np.nan, np.nan, np.nan, "undefined"),
    ],
)
def test_decide(delta, lo, hi, word):
    assert decide(delta, lo, hi, margin=0.05) == word


def test_needed_positives_settle_the_question_as_often_as_promised():
    n_pos, delta, se, margin = 20, -0.02, 0.03, 0.05
    needed = needed_positives(n_pos, delta, se, margin)
    assert needed is not None
    assert needed > n_pos
    new_se = se * np.sqrt(n_pos / needed)
    lower = np.random.default_rng(0).normal(delta, new_se, 100_000) - 1.96 * new_se
    assert (lower > -margin).mean() == pytest.approx(0.8, abs=0.02)


def test_needed_positives_is_rounded_up_and_never_fewer_than_there_are():
    assert needed_positives(100, -0.02, 0.03, 0.05) == 790  # 100 (2.80 * .03 / .03)^2 = 784.9
    assert needed_positives(100, -0.02, 1e-6, 0.05) == 100


@pytest.mark.parametrize(("delta", "se"), [(np.nan, 0.1), (-0.05, 0.1), (-0.02, np.nan), (-0.05 + 1e-9, 0.1)])
def test_no_number_where_none_can_be_told(delta, se):
    assert needed_positives(10, delta, se, margin=0.05) is None


@pytest.mark.parametrize(
    ("positives", "negatives", "grouped", "reason"),
    [
        (3, 300, False, "only 3 positives: intervals are not reliable"),
        (300, 9, False, "only 9 negatives: intervals are not reliable"),
        (4, 80, True, "only 4 groups with positives: intervals are not reliable"),
        (10, 10, False, ""),
    ],
)
def test_a_handful_of_units_decides_nothing(positives, negatives, grouped, reason):
    assert too_few(positives, negatives, grouped) == reason
