"""ECE, Brier and reliability curves against scikit-learn and a sum written out sample by sample."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from layerscope.errors import NumericalError
from layerscope.functional.calibration import brier, expected_calibration_error, reliability_curve


def case(n=300):
    rng = np.random.default_rng(0)
    prob = rng.random((n, 3)).astype(np.float32)
    prob[:4, 0] = [0.0, 1.0, 0.5, 0.2]
    target = (rng.random((n, 3)) < prob**2).astype(int)
    known = rng.random((n, 3)) < 0.8
    known[:, 2] = False
    return prob, target, known


@pytest.mark.parametrize("n_bins", [5, 15])
def test_reliability_curve_equals_scikit_learn(n_bins):
    prob, target, known = case()
    curve = reliability_curve(prob, target, known, n_bins)
    for k in range(2):
        frequency, confidence = calibration_curve(
            target[known[:, k], k], prob[known[:, k], k].astype(float), n_bins=n_bins
        )
        filled = curve.count[k] > 0
        np.testing.assert_allclose(curve.frequency[k, filled], frequency, rtol=1e-12)
        np.testing.assert_allclose(curve.confidence[k, filled], confidence, rtol=1e-12)
        assert curve.count[k].sum() == known[:, k].sum()


def test_ece_equals_the_sum_written_out():
    prob, target, known = case()
    got = expected_calibration_error(prob, target, known, n_bins=10)
    for k in range(2):
        p, y = prob[known[:, k], k].astype(float), target[known[:, k], k]
        expected = 0.0
        for b in range(10):
            inside = [(b / 10 < value <= (b + 1) / 10) or (b == 0 and value == 0) for value in p]
            if any(inside):
                expected += sum(inside) / len(p) * abs(p[inside].mean() - y[inside].mean())
        assert got[k] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(got[2])


def test_brier_equals_scikit_learn_and_is_nan_where_nothing_is_known():
    prob, target, known = case()
    got = brier(prob, target, known)
    for k in range(2):
        rows = known[:, k]
        assert got[k] == pytest.approx(brier_score_loss(target[rows, k], prob[rows, k].astype(float)), abs=1e-12)
    assert np.isnan(got[2])


def test_perfect_and_opposite_predictions():
    y = np.array([[0], [1], [1], [0]])
    assert expected_calibration_error(y.astype(float), y) == 0.0
    assert expected_calibration_error(1.0 - y, y) == 1.0


def test_logits_are_refused():
    with pytest.raises(NumericalError, match="sigmoid"):
        brier([[2.5]], [[1]])
