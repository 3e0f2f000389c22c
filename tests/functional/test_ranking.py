"""AUROC, its influence values, AP and F1 against scikit-learn and brute force over pairs."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from layerscope.errors import DataError
from layerscope.functional import ranking


def masked_case(seed=0, n=157, n_labels=6, tied=True):
    """Scores with many ties; label 3 has no positives, label 4 only positives, label 5 nothing known."""
    rng = np.random.default_rng(seed)
    target = (rng.random((n, n_labels)) < 0.3).astype(np.uint8)
    known = rng.random((n, n_labels)) < 0.8
    score = (rng.standard_normal((n, n_labels)) + target).astype(np.float32)
    if tied:
        score = score.round(1)
    target[:, 3] = 0
    target[:, 4] = 1
    known[:, 5] = False
    target[~known] = 7  # what stands behind the mask must not matter
    score[~known] = np.nan
    return score, target, known


def per_label(function, score, target, known):
    return np.array(
        [function(target[known[:, k], k], score[known[:, k], k].astype(float)) for k in range(3)]
        + [np.nan] * (target.shape[1] - 3)
    )


def brute_force_placements(score, target):
    """DeLong's structural components from all pairs: V10 per positive, V01 per negative."""
    kernel = np.array([[float(p > q) + 0.5 * float(p == q) for q in score[target == 0]] for p in score[target == 1]])
    return kernel.mean(axis=1), kernel.mean(axis=0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(ranking.auroc, roc_auc_score), (ranking.average_precision, average_precision_score)],
)
def test_auroc_and_ap_equal_scikit_learn_with_masks_ties_and_absent_labels(ours, theirs, tied):
    case = masked_case(tied=tied)
    np.testing.assert_allclose(ours(*case), per_label(theirs, *case), rtol=1e-12)


def test_f1_equals_scikit_learn_at_scalar_and_own_thresholds():
    score, target, known = masked_case()
    tau = np.array([0.0, 0.5, -0.5, 0.0, 10.0, 0.0])
    for threshold in (0.3, tau):
        each = np.broadcast_to(threshold, 6)
        expected = [f1_score(target[known[:, k], k], score[known[:, k], k] >= each[k]) for k in range(3)]
        got = ranking.f1_at(score, target, known, threshold)
        np.testing.assert_allclose(got[:3], expected, rtol=1e-12)
        assert np.isnan(got[[3, 5]]).all()
    assert ranking.f1_at(score, target, known, tau)[4] == 0.0


def test_f1_threshold_between_neighbouring_float32_scores_separates_them():
    low = np.float32(1.0)
    high = np.nextafter(low, np.float32(2.0))
    tau = 0.5 * (float(low) + float(high))
    assert ranking.f1_at(np.array([[low], [high]]), [[0], [1]], None, tau) == 1.0


def test_influence_equals_brute_force_delong():
    score, target, known = masked_case(seed=3)
    got = ranking.auroc_influence(score, target, known)
    n_rows = len(score)
    for k in range(3):
        rows = known[:, k]
        v10, v01 = brute_force_placements(score[rows, k], target[rows, k])
        area, m, n = v10.mean(), len(v10), len(v01)
        expected = np.zeros(n_rows)
        expected[np.flatnonzero(rows & (target[:, k] == 1))] = n_rows / m * (v10 - area)
        expected[np.flatnonzero(rows & (target[:, k] == 0))] = n_rows / n * (v01 - area)
        np.testing.assert_allclose(got.psi[:, k], expected, atol=1e-10)
        assert got.value[k] == pytest.approx(area, abs=1e-14)
        assert (got.n_pos[k], got.n_neg[k]) == (m, n)
        # DeLong's variance with its unbiased variances, of which psi has the m and n instead of m - 1 and n - 1.
        delong = v10.var(ddof=1) * (m - 1) / m**2 + v01.var(ddof=1) * (n - 1) / n**2
        assert np.square(got.psi[:, k]).sum() / n_rows**2 == pytest.approx(delong, rel=1e-12)
    assert np.isnan(got.value[3:]).all()
    assert (got.psi[:, 3:] == 0).all()


def test_influence_is_blind_to_strictly_rising_transformations_of_float32_scores():
    score, target, known = masked_case(seed=1)
    plain = ranking.auroc_influence(score, target, known)
    moved = ranking.auroc_influence(np.exp(score.astype(np.float64)) * 3 - 1, target, known)
    np.testing.assert_array_equal(plain.psi, moved.psi)
    np.testing.assert_array_equal(plain.value, moved.value)


def test_macro_leaves_undefined_labels_out_and_says_how_many_were_used():
    assert ranking.macro([0.5, np.nan, 0.9]) == (pytest.approx(0.7), 2)
    mean, used = ranking.macro([np.nan, np.nan])
    assert np.isnan(mean)
    assert used == 0


def test_macro_influence_is_the_mean_over_defined_labels():
    case = masked_case(seed=5)
    every = ranking.auroc_influence(*case)
    one = ranking.macro_influence(every)
    assert one.value[0] == pytest.approx(every.value[:3].mean())
    np.testing.assert_allclose(one.psi[:, 0], every.psi[:, :3].mean(axis=1), atol=1e-12)
    nothing = ranking.macro_influence(ranking.auroc_influence(case[0][:, 3:], case[1][:, 3:], case[2][:, 3:]))
    assert np.isnan(nothing.value[0])


def test_micro_equals_scikit_learn_on_the_known_pairs():
    score, target, known = masked_case(seed=2)
    y, s = target[known], score[known].astype(float)
    assert ranking.micro_auroc(score, target, known) == pytest.approx(roc_auc_score(y, s), rel=1e-12)
    assert ranking.micro_average_precision(score, target, known) == pytest.approx(
        average_precision_score(y, s), rel=1e-12
    )


def test_micro_influence_predicts_what_leaving_a_sample_out_does():
    score, target, known = masked_case(seed=4, n=400)
    got = ranking.micro_auroc_influence(score, target, known)
    assert got.value[0] == pytest.approx(ranking.micro_auroc(score, target, known))
    n = len(score)
    left_out = np.array(
        [ranking.micro_auroc(*(np.delete(array, i, axis=0) for array in (score, target, known))) for i in range(n)]
    )
    jackknife = (n - 1) * (got.value[0] - left_out)
    assert np.corrcoef(jackknife, got.psi[:, 0])[0, 1] > 0.999
    assert jackknife.std() == pytest.approx(got.psi.std(), rel=0.02)


def test_draws_are_averaged_after_the_metric():
    a = ranking.auroc_influence(*masked_case(seed=0, tied=False))
    score, target, known = masked_case(seed=0, tied=False)
    b = ranking.auroc_influence(-score, target, known)
    mean = ranking.mean_influence([a, b])
    np.testing.assert_allclose(mean.value[:3], 0.5)
    np.testing.assert_allclose(mean.psi[:, :3], 0.0, atol=1e-12)
    with pytest.raises(DataError, match="draw"):
        ranking.mean_influence([])
