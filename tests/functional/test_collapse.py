"""Collapse points and onsets: the monotone fit against scipy, the points against closed forms."""

import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from scipy.stats import norm

from layerscope.errors import DataError
from layerscope.functional import collapse


@pytest.mark.parametrize("n_steps", [1, 2, 3, 10, 41])
def test_monotone_curve_equals_scipy_in_any_order_of_steps(n_steps):
    rng = np.random.default_rng(n_steps)
    axis = rng.permutation(np.linspace(-5, 7, n_steps))
    curves = 0.7 + 0.02 * axis + 0.1 * rng.standard_normal((30, n_steps))
    got = collapse.monotone_curve(axis, curves)
    order = np.argsort(axis)
    for curve, fitted in zip(curves, got):
        np.testing.assert_allclose(fitted[order], isotonic_regression(curve[order]).x, atol=1e-12)


def test_monotone_curve_leaves_monotone_data_alone_and_undefined_curves_nan():
    np.testing.assert_allclose(collapse.monotone_curve([2.0, 0.0, 1.0], [0.9, 0.5, 0.7]), [0.9, 0.5, 0.7])
    assert np.isnan(collapse.monotone_curve([2.0, 0.0, 1.0], [0.9, np.nan, 0.7])).all()


def test_collapse_point_of_the_exact_phantom_is_where_the_closed_form_says():
    # AUROC(lambda) = Phi(d / sqrt(2 (1 + k e^-lambda))) passes a level where that is solved for lambda.
    d, k = 2.5, 3.0
    axis = np.linspace(7, -5, 200)
    curve = norm.cdf(d / np.sqrt(2 * (1 + k * np.exp(-axis))))
    real = norm.cdf(d / np.sqrt(2))
    level = 0.5 + 0.5 * (real - 0.5)
    expected = -np.log(((d / norm.ppf(level)) ** 2 / 2 - 1) / k)
    state, point = collapse.collapse_point(axis, curve, real, real)
    assert state == "collapsed"
    assert point == pytest.approx(expected, abs=1e-3)


def test_every_state():
    axis = [4.0, 2.0, 0.0]
    curve = [0.95, 0.9, 0.8]
    assert collapse.collapse_point(axis, curve, 0.95, 0.95)[0] == "not_reached"
    assert collapse.collapse_point(axis, [0.6, 0.6, 0.5], 0.95, 0.7)[0] == "collapsed_at_recon"
    for real, recon in ((np.nan, np.nan), (0.52, 0.5), (0.3, 0.3)):
        assert collapse.collapse_point(axis, curve, real, recon)[0] == "undefined"
    assert collapse.collapse_point(axis, [0.9, np.nan, 0.6], 0.9, 0.9)[0] == "undefined"
    for state in ("not_reached", "collapsed_at_recon", "undefined"):
        assert state in collapse.CollapseState.__args__


def test_first_step_already_below_gives_that_step_and_a_bump_is_no_second_crossing():
    state, point = collapse.collapse_point([4.0, 2.0, 0.0], [0.6, 0.6, 0.5], 0.9, 0.9)
    assert (state, point) == ("collapsed", 4.0)
    # .65 then .75 pool to .70, which is the threshold: reached at the higher of the two steps.
    state, point = collapse.collapse_point([6.0, 4.0, 2.0, 0.0], [0.9, 0.65, 0.75, 0.5], 0.9, 0.9)
    assert state == "collapsed"
    assert point == pytest.approx(4.0)


def test_many_curves_at_once_equal_one_at_a_time():
    rng = np.random.default_rng(0)
    axis = np.linspace(7, -5, 10)
    real = rng.uniform(0.5, 1.0, (40, 3))
    curves = 0.5 + (real[..., None] - 0.5) / (1 + np.exp(-axis)) + 0.03 * rng.standard_normal((40, 3, 10))
    recon = real - rng.uniform(0, 0.3, (40, 3))
    states, points = collapse.collapse_points(axis, curves, real, recon)
    for i in np.ndindex(40, 3):
        state, point = collapse.collapse_point(axis, curves[i], real[i], recon[i])
        assert state == states[i]
        np.testing.assert_equal(point, points[i])
    assert set(states.ravel()) == {"collapsed", "collapsed_at_recon", "undefined"}


def test_interval_places_states_beyond_the_measured_range_and_counts_undefined():
    state = np.array(["not_reached"] * 10 + ["collapsed"] * 80 + ["collapsed_at_recon"] * 10 + ["undefined"] * 7)
    point = np.concatenate([np.full(10, np.nan), np.linspace(-2, 2, 80), np.full(17, np.nan)])
    got = collapse.collapse_interval(state, point, level=0.95)
    assert (got.lo, got.hi, got.n_undefined) == (-np.inf, np.inf, 7)
    narrow = collapse.collapse_interval(state, point, level=0.5)
    assert -2 < narrow.lo < narrow.hi < 2
    nothing = collapse.collapse_interval(["undefined"] * 3, [np.nan] * 3)
    assert np.isnan(nothing.lo)
    assert nothing.n_undefined == 3


def test_onset_is_the_cleanest_step_with_proved_damage():
    axis = np.array([7.0, 4.0, 1.0, -2.0])
    assert collapse.onset(axis, np.array([0.01, -0.03, -0.02, -0.2]), margin=0.02) == 4.0
    assert collapse.onset(axis, np.array([0.01, -0.02, np.nan, -0.01]), margin=0.02) is None


def test_repeated_steps_and_wrong_shapes_are_errors():
    with pytest.raises(DataError, match="distinct"):
        collapse.monotone_curve([1.0, 1.0], [0.5, 0.6])
    with pytest.raises(DataError, match="fit"):
        collapse.monotone_curve([1.0, 2.0], [0.5, 0.6, 0.7])
