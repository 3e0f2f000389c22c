"""Weighted metrics against scikit-learn on data repeated as often as drawn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from layerscope.errors import DataError
from layerscope.functional import bootstrap
from layerscope.functional.ranking import auroc_influence, average_precision
from layerscope.functional.thresholds import best_label_thresholds


def case(seed=0, n=70, decimals=1, prevalence=0.3):
    rng = np.random.default_rng(seed)
    target = (rng.random(n) < prevalence).astype(int)
    known = rng.random(n) < 0.9
    score = (rng.standard_normal(n) + target).round(decimals).astype(np.float32)
    return score, target, known


def reference(score, target, known, weight, tau):
    rows = np.repeat(np.flatnonzero(known), weight[known].astype(int))
    y, s = target[rows], score[rows].astype(float)
    if not y.any():
        return [np.nan] * 4
    precision, recall, _ = precision_recall_curve(y, s)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))
    both = [roc_auc_score(y, s), average_precision_score(y, s)] if not y.all() else [np.nan, np.nan]
    return [*both, f1_score(y, s >= tau), best]


@pytest.mark.parametrize(("decimals", "prevalence"), [(1, 0.3), (6, 0.3), (0, 0.9), (1, 0.04)])
def test_weighted_ranking_equals_scikit_learn_on_repeated_rows(decimals, prevalence):
    score, target, known = case(decimals=decimals, prevalence=prevalence)
    weights = bootstrap.resample_weights(len(score), 40, seed=1)
    got = bootstrap.weighted_ranking(score, target, known, weights, threshold=0.5)
    expected = np.array([reference(score, target, known, w, 0.5) for w in weights])
    ours = np.stack([got.auroc, got.ap, got.f1_fixed, got.f1_reopt], axis=1)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_resamples_without_positives_are_nan_and_counted():
    score, target, known = case(n=30, prevalence=0.0)
    target[np.flatnonzero(known)[:1]] = 1
    weights = bootstrap.resample_weights(30, 400, seed=0)
    got = bootstrap.weighted_ranking(score, target, known, weights, threshold=0.0)
    empty = weights[:, np.flatnonzero(known)[0]] == 0
    for array in (got.auroc, got.ap, got.f1_fixed, got.f1_reopt):
        np.testing.assert_array_equal(np.isnan(array), empty)
    lo, hi, undefined = bootstrap.percentile_interval(got.ap)
    assert undefined == empty.sum() > 0
    assert 0 <= lo <= hi <= 1


def test_absent_label_and_everything_unknown_are_nan():
    weights = bootstrap.resample_weights(10, 5, seed=0)
    scores = np.arange(10.0)
    for target, known in ((np.zeros(10), None), (np.ones(10), np.zeros(10, dtype=bool))):
        got = bootstrap.weighted_ranking(scores, target, known, weights, 0.0)
        assert np.isnan([got.auroc, got.ap, got.f1_fixed, got.f1_reopt]).all()


def test_weights_of_one_give_the_plain_metrics_for_all_labels():
    rng = np.random.default_rng(0)
    target = (rng.random((50, 3)) < 0.3).astype(int)
    known = rng.random((50, 3)) < 0.8
    score = rng.standard_normal((50, 3)).round(1)
    got = bootstrap.weighted_ranking_labels(
        score, target, known, np.ones((1, 50), dtype=np.float32), [0.0, 0.1, np.nan]
    )
    np.testing.assert_allclose(got.ap[0], average_precision(score, target, known), rtol=1e-12)
    np.testing.assert_allclose(got.auroc[0], auroc_influence(score, target, known).value, rtol=1e-12)
    np.testing.assert_allclose(got.f1_reopt[0], best_label_thresholds(score, target, known)[1], rtol=1e-12)
    np.testing.assert_array_equal(np.isnan(got.f1_fixed[0]), [False, False, True])


def test_chunks_and_memory_order_of_weights_do_not_show(monkeypatch):
    score, target, known = case()
    weights = bootstrap.resample_weights(len(score), 33, seed=2)
    whole = bootstrap.weighted_ranking(score, target, known, weights, 0.1)
    monkeypatch.setattr(bootstrap, "_CHUNK", 1)
    pieces = bootstrap.weighted_ranking(score, target, known, np.ascontiguousarray(weights), 0.1)
    for name in ("auroc", "ap", "f1_fixed", "f1_reopt"):
        np.testing.assert_allclose(getattr(whole, name), getattr(pieces, name), rtol=1e-14)


def test_weights_draw_as_many_as_there_are_and_groups_whole():
    weights = bootstrap.resample_weights(60, 500, seed=0)
    assert weights.dtype == np.float32
    assert (weights.sum(axis=1) == 60).all()
    # Multinomial: mean 1, variance 1 - 1/n.
    assert weights.var() == pytest.approx(59 / 60, rel=0.03)
    group = np.array(["b", "a", "c"] * 20)
    grouped = bootstrap.resample_weights(60, 50, seed=0, group=group)
    for name in "abc":
        columns = grouped[:, group == name]
        assert (columns == columns[:, :1]).all()
    assert (grouped[:, :3].sum(axis=1) == 3).all()
    np.testing.assert_array_equal(weights, bootstrap.resample_weights(60, 500, seed=0))
    assert (weights != bootstrap.resample_weights(60, 500, seed=1)).any()


def test_weights_of_other_samples_and_wrong_groups_are_errors():
    with pytest.raises(DataError, match="resamples"):
        bootstrap.weighted_ranking([0.0, 1.0], [0, 1], None, np.ones((3, 5), dtype=np.float32))
    with pytest.raises(DataError, match="group"):
        bootstrap.resample_weights(5, 2, 0, group=[1, 2])


def test_percentile_interval_equals_numpy_column_by_column():
    samples = np.random.default_rng(0).standard_normal((200, 2, 3))
    samples[:50, 0, 0] = np.nan
    samples[:, 1, 2] = np.nan
    lo, hi, undefined = bootstrap.percentile_interval(samples, level=0.9)
    assert undefined.tolist() == [[50, 0, 0], [0, 0, 200]]
    assert lo[0, 0] == pytest.approx(np.quantile(samples[50:, 0, 0], 0.05))
    assert hi[0, 1] == pytest.approx(np.quantile(samples[:, 0, 1], 0.95))
    assert np.isnan(lo[1, 2])


def test_average_precision_alone_is_that_of_all_metrics() -> None:
    rng = np.random.default_rng(4)
    target, known = rng.random(60) < 0.1, rng.random(60) < 0.8
    score = np.round(rng.standard_normal(60) + target, 1)
    weights = bootstrap.resample_weights(60, 300, seed=0)
    for labels in (target, target & False, target | True):
        alone = bootstrap.weighted_average_precision(score, labels, known, bootstrap.resample_chunks(weights))
        expected = bootstrap.weighted_ranking(score, labels, known, weights).ap
        np.testing.assert_allclose(alone, expected, rtol=1e-12)
