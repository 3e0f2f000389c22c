"""Time the statistics at the sizes they promise: ``python -m benchmarks.statistics``.

Prints what each took, the bound it should stay under, and what a loop over scikit-learn would take for the same
numbers, measured on a few resamples and multiplied.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from layerscope.functional.bootstrap import percentile_interval, resample_weights, weighted_ranking_labels
from layerscope.functional.collapse import collapse_points
from layerscope.functional.intervals import cluster_sums, group_index, paired_difference, simultaneous_critical_value
from layerscope.functional.ranking import auroc_influence, macro_influence
from layerscope.functional.thresholds import best_global_threshold

LOOPED_RESAMPLES = 5


def scores(n: int, n_labels: int, n_conditions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits (C, N, L) whose signal fades with the condition, labels, mask (95 % known) and patients of four images."""
    rng = np.random.default_rng(0)
    target = (rng.random((n, n_labels)) < 0.15).astype(np.uint8)
    known = rng.random((n, n_labels)) < 0.95
    shared = rng.standard_normal((n, n_labels))
    signal = np.linspace(2.0, 0.2, n_conditions)
    logits = np.stack([s * target + 0.7 * shared + 0.7 * rng.standard_normal(target.shape) for s in signal])
    return logits.astype(np.float32), target, known, np.array([f"patient{i // 4:05d}" for i in range(n)])


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired_intervals(logits: np.ndarray, target: np.ndarray, known: np.ndarray, patient: np.ndarray) -> None:
    """Differences to condition 0 per label and macro, clustered by patient."""
    group = group_index(patient)
    real = auroc_influence(logits[0], target, known)
    for condition in logits[1:]:
        influence = auroc_influence(condition, target, known)
        paired_difference(real, influence, group)
        paired_difference(macro_influence(real), macro_influence(influence), group)


def band(logits: np.ndarray, target: np.ndarray, known: np.ndarray, patient: np.ndarray) -> None:
    """The simultaneous band over all labels and conditions, given what `paired_intervals` computes."""
    real = auroc_influence(logits[0], target, known)
    psi = np.concatenate([auroc_influence(one, target, known).psi - real.psi for one in logits[1:]], axis=1)
    simultaneous_critical_value(cluster_sums(psi, patient))


def bootstrap(logits: np.ndarray, target: np.ndarray, known: np.ndarray, n_resamples: int) -> None:
    """Paired percentile intervals of AP and both F1 on original and condition."""
    weights = resample_weights(len(target), n_resamples, seed=0)
    real, other = (weighted_ranking_labels(one, target, known, weights, 0.5) for one in logits[[0, -1]])
    for name in ("ap", "f1_fixed", "f1_reopt"):
        percentile_interval(getattr(other, name) - getattr(real, name))


def looped_scikit_learn(
    logits: np.ndarray, target: np.ndarray, known: np.ndarray, metrics: list[Callable[[np.ndarray, np.ndarray], float]]
) -> None:
    """`LOOPED_RESAMPLES` resamples of each label and condition, a call per metric."""
    rng = np.random.default_rng(0)
    for _ in range(LOOPED_RESAMPLES):
        drawn = rng.integers(len(target), size=len(target))
        for condition in logits:
            for label in range(target.shape[1]):
                rows = drawn[known[drawn, label]]
                for metric in metrics:
                    metric(target[rows, label], condition[rows, label])


def f1(target: np.ndarray, score: np.ndarray) -> float:
    return f1_score(target, score >= 0.5)


def main() -> None:
    large, small = scores(5000, 20, 41), scores(1000, 10, 2)
    auroc_loop = timed(lambda: looped_scikit_learn(*large[:3], metrics=[roc_auc_score])) / LOOPED_RESAMPLES
    ap_loop = timed(lambda: looped_scikit_learn(*small[:3], metrics=[average_precision_score, f1])) / LOOPED_RESAMPLES
    curves = np.random.default_rng(0).uniform(0.5, 1.0, (500, 21, 40))
    real = np.full((500, 21), 0.9)
    rows = [
        ("paired intervals, labels + macro, patients; N=5000 L=20 C=41", timed(lambda: paired_intervals(*large)), 3.0),
        ("  the same by a scikit-learn bootstrap, 1000 resamples", 1000 * auroc_loop, None),
        ("simultaneous band over 800 label x condition", timed(lambda: band(*large)), None),
        (
            "bootstrap of AP and F1, 2000 resamples; N=1000 L=10, 2 conditions",
            timed(lambda: bootstrap(*small[:3], 2000)),
            10.0,
        ),
        ("  the same by scikit-learn (AP and F1 at a fixed threshold only)", 2000 * ap_loop, None),
        ("global F1 threshold; N=5000 L=20", timed(lambda: best_global_threshold(large[0][0], *large[1:3])), 1.0),
        (
            "collapse points, 500 resamples x 21 curves x 40 steps",
            timed(lambda: collapse_points(np.arange(40.0), curves, real, real)),
            None,
        ),
    ]
    print(f"{'what':68} {'seconds':>9} {'at most':>8}")
    for name, seconds, bound in rows:
        print(f"{name:68} {seconds:9.2f} {'' if bound is None else format(bound, '8.1f')}")


if __name__ == "__main__":
    main()
