"""Standard errors, paired differences, bands and adjusted p-values; their coverage is in test_coverage.py."""

import math

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm

from layerscope.errors import DataError
from layerscope.functional import intervals
from layerscope.functional.ranking import auroc_influence, macro_influence, mean_influence


def paired_case(seed=0, n=120, n_labels=3):
    rng = np.random.default_rng(seed)
    target = (rng.random((n, n_labels)) < 0.3).astype(int)
    known = rng.random((n, n_labels)) < 0.9
    shared = rng.standard_normal((n, n_labels))
    score_o = (1.5 * target + shared).round(1)
    score_c = (1.0 * target + 0.7 * shared + 0.7 * rng.standard_normal((n, n_labels))).round(1)
    return score_o, score_c, target, known


def kernel(score, target):
    positive, negative = score[target == 1][:, None], score[target == 0][None]
    return (positive > negative) + 0.5 * (positive == negative)


def test_paired_difference_equals_brute_force_delong_covariance():
    score_o, score_c, target, known = paired_case()
    got = intervals.paired_auroc_difference(score_o, score_c, target, known)
    for k in range(3):
        rows = known[:, k]
        a, b = kernel(score_o[rows, k], target[rows, k]), kernel(score_c[rows, k], target[rows, k])
        m, n = a.shape
        s10 = np.cov(a.mean(axis=1), b.mean(axis=1), bias=True)
        s01 = np.cov(a.mean(axis=0), b.mean(axis=0), bias=True)
        contrast = np.array([-1.0, 1.0])
        variance = contrast @ (s10 / m + s01 / n) @ contrast
        assert got.delta[k] == pytest.approx(b.mean() - a.mean(), abs=1e-12)
        assert got.se[k] == pytest.approx(np.sqrt(variance), rel=1e-10)
        z = (b.mean() - a.mean()) / np.sqrt(variance)
        assert got.p[k] == pytest.approx(2 * norm.sf(abs(z)), rel=1e-9)
        assert got.lo[k] == pytest.approx(got.delta[k] - 1.959963985 * got.se[k])
        assert got.hi[k] == pytest.approx(got.delta[k] + 1.959963985 * got.se[k])


def test_identical_scores_give_zero_zero_zero_one_and_no_nan():
    score, _, target, known = paired_case()
    for other in (score, np.tanh(score / 10)):
        got = intervals.paired_auroc_difference(score, other, target, known, group=np.arange(len(score)) // 4)
        for array, expected in ((got.delta, 0), (got.se, 0), (got.lo, 0), (got.hi, 0), (got.p, 1)):
            np.testing.assert_array_equal(array, np.full(3, float(expected)))
        assert not got.degenerate.any()


def test_identical_draws_averaged_and_macro_are_also_exactly_zero():
    score, _, target, known = paired_case()
    real = auroc_influence(score, target, known)
    three = mean_influence([real, real, real])
    for a, b in ((real, three), (macro_influence(real), macro_influence(three))):
        got = intervals.paired_difference(a, b)
        assert (got.delta == 0).all()
        assert (got.hi == 0).all()
        assert (got.p == 1).all()


def test_undefined_label_is_nan_and_does_not_disturb_the_others():
    score_o, score_c, target, known = paired_case()
    alone = intervals.paired_auroc_difference(score_o, score_c, target, known)
    target[:, 1] = 0
    got = intervals.paired_auroc_difference(score_o, score_c, target, known)
    for array in (got.delta, got.se, got.lo, got.hi, got.p):
        assert np.isnan(array[1])
    np.testing.assert_array_equal(got.delta[[0, 2]], alone.delta[[0, 2]])
    assert not got.degenerate[1]


def test_one_positive_or_positives_of_one_patient_admit_no_interval():
    score_o, score_c = np.arange(12.0)[:, None], np.arange(12.0)[::-1][:, None]
    single = np.eye(12)[:, 7:8]
    got = intervals.paired_auroc_difference(score_o, score_c, single)
    assert np.isfinite(got.delta[0])
    assert np.isnan([got.se[0], got.lo[0], got.hi[0], got.p[0]]).all()
    assert got.degenerate[0]
    four = np.zeros((12, 1))
    four[4:8] = 1
    group = np.repeat(["a", "b", "c"], 4)
    assert np.isnan(intervals.paired_auroc_difference(score_o, score_c**2, four, group=group).se[0])
    assert np.isfinite(intervals.paired_auroc_difference(score_o, score_c**2, four).se[0])


def test_perfect_becoming_the_reverse_is_certain_and_flagged():
    y = np.array([[0], [0], [1], [1]])
    got = intervals.paired_auroc_difference(y.astype(float), -y.astype(float), y)
    assert (got.delta[0], got.lo[0], got.hi[0], got.p[0]) == (-1.0, -1.0, -1.0, 0.0)
    assert got.degenerate[0]


def test_different_samples_cannot_be_paired():
    with pytest.raises(DataError, match="same samples"):
        intervals.paired_difference(auroc_influence([[0.0], [1.0]], [[0], [1]]), auroc_influence([[0.0]], [[0]]))


@pytest.mark.parametrize("group", [np.array([3, 1, 3, 2, 1, 3]), np.array(["c", "a", "c", "b", "a", "c"])])
def test_cluster_sums_add_rows_of_a_group_in_sorted_order(group):
    psi = np.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(intervals.cluster_sums(psi, group), [[10, 12], [6, 7], [14, 17]])
    np.testing.assert_array_equal(intervals.cluster_sums(psi[:, 0], group), [10, 6, 14])
    np.testing.assert_array_equal(intervals.cluster_sums(psi), psi)
    expected = np.sqrt(10**2 + 6**2 + 14**2) / 6
    assert intervals.standard_error(psi[:, 0], group) == pytest.approx(expected)


def test_wrong_number_of_groups_is_an_error():
    with pytest.raises(DataError, match="one group per sample"):
        intervals.cluster_sums(np.ones(3), [1, 2])


def test_groups_of_one_change_nothing():
    score_o, score_c, target, known = paired_case()
    plain = intervals.paired_auroc_difference(score_o, score_c, target, known)
    single = intervals.paired_auroc_difference(score_o, score_c, target, known, group=np.arange(len(score_o))[::-1])
    np.testing.assert_allclose(plain.se, single.se, rtol=1e-12)


def test_copies_of_every_image_do_not_make_a_clustered_interval_narrower():
    score_o, score_c, target, _ = paired_case()
    plain = intervals.paired_auroc_difference(score_o, score_c, target)
    copies = [np.repeat(array, 4, axis=0) for array in (score_o, score_c, target)]
    patients = np.repeat(np.arange(len(score_o)), 4)
    np.testing.assert_allclose(intervals.paired_auroc_difference(*copies, group=patients).se, plain.se, rtol=1e-12)
    np.testing.assert_allclose(intervals.paired_auroc_difference(*copies).se, plain.se / 2, rtol=1e-12)


def test_auroc_interval_stays_inside_0_and_1_and_contains_the_value():
    rng = np.random.default_rng(0)
    target = np.tile((np.arange(30) % 3 == 0)[:, None], (1, 3)).astype(int)
    score = np.stack([4 * target[:, 0], 1 * target[:, 0], 99 * target[:, 0]], axis=1) + rng.standard_normal((30, 3))
    influence = auroc_influence(score, target)
    se, lo, hi = intervals.auroc_interval(influence)
    assert ((lo >= 0) & (lo <= influence.value) & (influence.value <= hi) & (hi <= 1)).all()
    # At the middle of the scale the logit interval is the plain one to second order.
    plain_lo, plain_hi = intervals.normal_interval(influence.value, se)
    assert lo[1] == pytest.approx(plain_lo[1], abs=0.05)
    assert hi[1] == pytest.approx(plain_hi[1], abs=0.05)
    assert (influence.value[2], se[2], lo[2], hi[2]) == (1.0, 0.0, 1.0, 1.0)


def test_mean_interval_is_the_textbook_one_without_mask_and_groups():
    values = np.random.default_rng(0).standard_normal((50, 2))
    got = intervals.mean_interval(values)
    np.testing.assert_allclose(got.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(got.se, values.std(axis=0) / np.sqrt(50), rtol=1e-12)
    np.testing.assert_array_equal(got.n, [50, 50])


def test_mean_interval_leaves_masked_values_out():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((60, 3))
    known = rng.random((60, 3)) < 0.5
    known[:, 2] = False
    by_mask = intervals.mean_interval(values, known=known)
    by_nan = intervals.mean_interval(np.where(known, values, np.nan))
    for k in range(2):
        chosen = values[known[:, k], k]
        assert by_mask.mean[k] == pytest.approx(chosen.mean())
        assert by_mask.se[k] == pytest.approx(chosen.std() / np.sqrt(len(chosen)))
    np.testing.assert_array_equal(by_mask.se, by_nan.se)
    assert np.isnan([by_mask.mean[2], by_mask.se[2], by_mask.lo[2]]).all()
    assert by_mask.n[2] == 0


def test_clustered_ratio_mean_equals_the_linearised_formula():
    rng = np.random.default_rng(2)
    values, group = rng.standard_normal(40), rng.integers(0, 9, 40)
    values[rng.random(40) < 0.3] = np.nan
    got = intervals.mean_interval(values, group)
    present = ~np.isnan(values)
    mean = values[present].mean()
    residuals = [np.sum((values - mean)[(group == g) & present]) for g in range(9)]
    assert got.se == pytest.approx(np.sqrt(np.sum(np.square(residuals))) / present.sum())


def test_critical_value_lies_between_pointwise_and_bonferroni():
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((400, 10))
    z = norm.ppf(0.975)
    independent = intervals.simultaneous_critical_value(columns, seed=1, n_multipliers=20_000)
    # Ten independent normals: P(max |Z| <= c) = (2 Phi(c) - 1)^10.
    assert independent == pytest.approx(norm.ppf(0.5 + 0.5 * 0.95 ** (1 / 10)), abs=0.04)
    copies = np.repeat(columns[:, :1], 10, axis=1) * np.arange(1, 11)
    assert intervals.simultaneous_critical_value(copies, n_multipliers=20_000) == pytest.approx(z, abs=0.04)
    assert intervals.simultaneous_critical_value(copies) >= z


def test_critical_value_ignores_columns_without_spread_and_the_order_of_samples():
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((200, 4))
    value = intervals.simultaneous_critical_value(columns, seed=3)
    padded = np.column_stack([np.zeros(200), columns, np.full(200, np.nan), np.full(200, 1e-17)])
    assert intervals.simultaneous_critical_value(padded, seed=3) == value
    assert intervals.simultaneous_critical_value(columns[::-1], seed=3) == pytest.approx(value, abs=1e-9)
    assert intervals.simultaneous_critical_value(np.zeros((5, 2))) == pytest.approx(norm.ppf(0.975))


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04; the running maximum makes the last .06.
    np.testing.assert_allclose(intervals.holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(intervals.holm([0.5, np.nan, 0.9]), [1.0, np.nan, 1.0])
    assert np.isnan(intervals.holm([np.nan])).all()


def test_benjamini_hochberg_by_hand_and_with_nan():
    # Sorted .005 .01 .03 .04 times 4/1 4/2 4/3 4/4 is .02 .02 .04 .04.
    np.testing.assert_allclose(intervals.benjamini_hochberg([0.04, 0.005, 0.03, 0.01]), [0.04, 0.02, 0.04, 0.02])
    grid = np.array([[0.2, np.nan], [0.001, 0.04]])
    got = intervals.benjamini_hochberg(grid)
    np.testing.assert_allclose(got[~np.isnan(grid)], false_discovery_control([0.2, 0.001, 0.04]))
    assert np.isnan(got[0, 1])
    assert np.isnan(intervals.benjamini_hochberg([np.nan])).all()


def test_smallest_detectable_drop_is_found_with_the_power_it_promises():
    se = 0.02
    drop = float(intervals.smallest_detectable_drop(se))
    estimates = np.random.default_rng(0).normal(-drop, se, 200_000)
    assert (estimates + norm.ppf(0.975) * se < 0).mean() == pytest.approx(0.8, abs=0.005)


def test_adjusted_p_values_and_simultaneous_intervals_say_the_same() -> None:
    """Against the exact distribution of the largest of independent normal deviations, and at the very border."""
    columns = np.random.default_rng(3).normal(size=(4000, 5))
    largest = intervals.LargestDeviation.of(columns, n_multipliers=100_000, seed=1)
    for deviation in (1.0, 2.0, 2.6):
        exact = 1 - (1 - 2 * norm.sf(deviation)) ** 5
        assert largest.adjusted_p(deviation) == pytest.approx(exact, abs=0.005)
    critical = largest.critical_value(0.95)
    assert largest.adjusted_p(critical * 1.0001) < 0.05 < largest.adjusted_p(critical * 0.9999)
    assert largest.adjusted_p(6.0) == pytest.approx(5 * 2 * norm.sf(6.0))
    assert math.isnan(largest.adjusted_p(math.nan))
    alone = intervals.LargestDeviation.of(np.zeros((10, 2)))
    assert alone.adjusted_p(1.96) == pytest.approx(0.05, abs=1e-4)
