"""F1-optimal thresholds against brute force over every possible cut."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from layerscope.functional.ranking import f1_at
from layerscope.functional.thresholds import best_global_threshold, best_label_thresholds


def case(seed, n=40, n_labels=4, decimals=1):
    rng = np.random.default_rng(seed)
    target = (rng.random((n, n_labels)) < [0.5, 0.2, 0.1, 0.0]).astype(int)
    known = rng.random((n, n_labels)) < 0.9
    logits = (2 * rng.standard_normal((n, n_labels)) + target).round(decimals).astype(np.float32)
    return logits, target, known


def cuts(scores):
    distinct = np.unique(scores.astype(float))
    return np.concatenate([[distinct[0] - 1], 0.5 * (distinct[1:] + distinct[:-1])])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [1, 6])
def test_label_thresholds_are_the_maximum_over_all_cuts(seed, decimals):
    logits, target, known = case(seed, decimals=decimals)
    tau, f1 = best_label_thresholds(logits, target, known)
    for k in range(4):
        rows = known[:, k]
        if not target[rows, k].any():
            assert np.isnan(tau[k])
            assert np.isnan(f1[k])
            continue
        s, y = logits[rows, k].astype(float), target[rows, k]
        assert f1[k] == pytest.approx(max(f1_score(y, s >= cut) for cut in cuts(s)), abs=1e-12)
        assert f1_score(y, s >= tau[k]) == pytest.approx(f1[k], abs=1e-12)
        assert np.isclose(cuts(s), tau[k], atol=0).any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [1, 6])
def test_global_threshold_is_the_maximum_of_macro_f1_over_all_cuts(seed, decimals):
    logits, target, known = case(seed, decimals=decimals)
    tau, best = best_global_threshold(logits, target, known)
    used = [k for k in range(4) if target[known[:, k], k].any()]
    pooled = np.concatenate([logits[known[:, k], k] for k in used])
    every = [
        np.mean([f1_score(target[known[:, k], k], logits[known[:, k], k].astype(float) >= cut) for k in used])
        for cut in cuts(pooled)
    ]
    assert best == pytest.approx(max(every), abs=1e-12)
    assert np.nanmean(f1_at(logits, target, known, tau)) == pytest.approx(best, abs=1e-12)
    assert np.isclose(cuts(pooled), tau, atol=0).any()


def test_no_positives_anywhere_gives_nan_and_all_positive_calls_everything():
    tau, best = best_global_threshold([[0.0], [1.0]], [[0], [0]])
    assert np.isnan(tau)
    assert np.isnan(best)
    tau, best = best_global_threshold([[0.0], [1.0]], [[1], [1]])
    assert tau < 0
    assert best == 1.0


def test_threshold_lies_midway_so_neither_neighbour_is_near_it():
    tau, f1 = best_label_thresholds([[-3.0], [-1.0], [5.0], [6.0]], [[0], [0], [1], [1]])
    assert tau[0] == 2.0
    assert f1[0] == 1.0
