"""Agreement with the original: divergences against scipy and high precision, flips against counting."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.special import expit, rel_entr

from layerscope.functional import agreement


def logits(seed=0, shape=(50, 3), scale=3.0):
    rng = np.random.default_rng(seed)
    return (scale * rng.standard_normal(shape)).astype(np.float32), (scale * rng.standard_normal(shape)).astype(
        np.float32
    )


def reference_kl(p, q):
    return rel_entr(p, q) + rel_entr(1 - p, 1 - q)


def test_divergences_equal_scipy_at_moderate_logits():
    o, c = logits()
    p, q = expit(o.astype(float)), expit(c.astype(float))
    np.testing.assert_allclose(agreement.bernoulli_kl(o, c), reference_kl(p, q), rtol=1e-9, atol=1e-13)
    m = 0.5 * (p + q)
    js = 0.5 * (reference_kl(p, m) + reference_kl(q, m))
    np.testing.assert_allclose(agreement.bernoulli_js(o, c), js, rtol=1e-9, atol=1e-13)


def test_identical_logits_agree_exactly_even_when_saturated():
    x = np.array([[-1e4, -40.0, 0.0, 0.3, 40.0, 1e4]], dtype=np.float32)
    for measure in (agreement.abs_delta_p, agreement.bernoulli_kl, agreement.bernoulli_js):
        assert (measure(x, x) == 0.0).all()


def test_confident_disagreement_is_finite_and_bounded_as_it_should_be():
    assert agreement.bernoulli_kl(800.0, -800.0) == pytest.approx(800.0)
    assert agreement.bernoulli_js(800.0, -800.0) == pytest.approx(np.log(2.0))
    # p_o = 1 - e^-50 and p_c = 1 - e^-40 look equal as probabilities in float32; q ln(q/q') + (q' - q) remains.
    expected = np.exp(-50.0) * -10.0 + (np.exp(-40.0) - np.exp(-50.0))
    assert agreement.bernoulli_kl(50.0, 40.0) == pytest.approx(expected, abs=1e-15)


def test_js_is_symmetric_and_between_0_and_ln_2():
    o, c = logits(seed=1, scale=20.0)
    js = agreement.bernoulli_js(o, c)
    np.testing.assert_allclose(js, agreement.bernoulli_js(c, o), atol=1e-14)
    assert js.min() >= 0
    assert js.max() <= np.log(2.0)


def test_erased_and_hallucinated_split_the_change_by_ground_truth():
    o = np.array([[2.0, 2.0], [0.0, 0.0], [-1.0, 1.0]])
    c = np.array([[0.0, 0.0], [2.0, 2.0], [-1.0, 3.0]])
    target = np.array([[1, 0], [1, 0], [1, 1]])
    known = np.array([[True, True], [True, True], [True, False]])
    drop = expit(2.0) - 0.5
    nan = np.nan
    np.testing.assert_allclose(agreement.erased(o, c, target, known), [[drop, nan], [0.0, nan], [0.0, nan]])
    np.testing.assert_allclose(agreement.hallucinated(o, c, target, known), [[nan, 0.0], [nan, drop], [nan, nan]])
    np.testing.assert_allclose(agreement.delta_p(o, c)[0], [-drop, -drop])


def test_flips_are_counted_by_direction():
    rng = np.random.default_rng(2)
    o, c = logits(seed=2)
    target = rng.integers(0, 2, o.shape)
    known = rng.random(o.shape) < 0.7
    tau = np.array([0.0, 1.0, -1.0])
    got = agreement.flips(o, c, target, tau, known)
    for i, k in np.ndindex(o.shape):
        before, after = o[i, k] >= tau[k], c[i, k] >= tau[k]
        truth = bool(target[i, k])
        assert got.any[i, k] == (before != after)
        assert got.negative[i, k] == (bool(known[i, k]) and before == truth and after != truth)
        assert got.positive[i, k] == (bool(known[i, k]) and before != truth and after == truth)


def test_a_logit_on_the_threshold_is_positive_and_float32_neighbours_are_told_apart():
    low = np.float32(0.1)
    high = np.nextafter(low, np.float32(1.0))
    tau = float((Fraction(float(low)) + Fraction(float(high))) / 2)
    assert agreement.flips([[low]], [[high]], [[1]], tau).any.all()
    assert not agreement.flips([[0.5]], [[0.6]], [[1]], 0.5).any.any()


def test_an_undefined_threshold_decides_nothing():
    assert not agreement.flips([[-5.0]], [[5.0]], [[1]], np.nan).any.any()
