"""What every statistic refuses, and what it must not look at."""

import numpy as np
import pytest

from layerscope.errors import DataError, NumericalError
from layerscope.functional.scored_labels import known_mask, scored_labels


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_an_error_that_names_sample_and_label(bad):
    score = np.zeros((4, 2))
    score[2, 1] = bad
    with pytest.raises(NumericalError, match=r"sample 2, label 1"):
        scored_labels(score, np.zeros((4, 2)), None)


def test_what_stands_behind_the_mask_is_not_looked_at():
    score, positive, known = scored_labels([[np.nan], [0.5]], [[np.nan], [1.0]], [[False], [True]])
    assert positive.tolist() == [[False], [True]]
    assert known.tolist() == [[False], [True]]
    assert score.dtype == np.float64


def test_integer_scores_and_masks_of_0_and_1_are_understood():
    score, _, known = scored_labels([[3], [4]], [[0], [1]], [[0], [1]])
    assert score.dtype == np.float64
    assert known.dtype == np.bool_


def test_label_values_other_than_0_and_1_are_an_error_with_place_and_remedy():
    with pytest.raises(DataError, match=r"0 or 1.*\(1, 0\).*`known`"):
        known_mask([[0], [2]], None)


def test_shapes_that_do_not_fit_are_errors():
    with pytest.raises(DataError, match="shape"):
        scored_labels(np.zeros((2, 1)), np.zeros((3, 1)), None)
    with pytest.raises(DataError, match="samples by labels"):
        scored_labels(np.zeros(3), np.zeros(3), None)
    with pytest.raises(DataError, match="known"):
        known_mask(np.zeros((2, 1)), np.ones((2, 2)))
