"""Agreement of a condition with the original's predictions, as rows of agreement.csv."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from layerscope.artifacts.scores import BottleneckScores
from layerscope.functional import agreement
from layerscope.functional.intervals import mean_interval
from layerscope.functional.scored_labels import FloatArray
from layerscope.report.conditions import ConditionGroup
from layerscope.report.estimates import macro_values
from layerscope.report.label_metrics import GroundTruth
from layerscope.report.rows import ALL, MACRO, Row, long_row

NULL = ConditionGroup("null", "null", None, float("nan"), float("nan"), ())

SampleValues = Callable[[np.ndarray], FloatArray]


def sample_metrics(
    original: np.ndarray, truth: GroundTruth, threshold_global: float, threshold_label: FloatArray
) -> dict[str, SampleValues]:
    """Metric name to a function from a condition's logits (N, L) to per-sample values (N, L), NaN where not counted."""
    y, known = truth.target, truth.known
    # A label whose truth is unknown has flips, but neither good nor bad ones: leaving it out keeps the sum right.
    judged = np.where(known, 0.0, np.nan)

    def flip(kind: Literal["any", "negative", "positive"], threshold: float | FloatArray) -> SampleValues:
        without_threshold = np.where(np.isnan(threshold), np.nan, 0.0)
        return lambda c: getattr(agreement.flips(original, c, y, threshold, known), kind) + judged + without_threshold

    return {
        "mean_abs_delta_p": lambda c: agreement.abs_delta_p(original, c),
        "delta_p": lambda c: agreement.delta_p(original, c),
        "erased": lambda c: agreement.erased(original, c, y, known),
        "hallucinated": lambda c: agreement.hallucinated(original, c, y, known),
        "kl": lambda c: agreement.bernoulli_kl(original, c),
        "js": lambda c: agreement.bernoulli_js(original, c),
        "flip_rate": flip("any", threshold_global),
        "negative_flip_rate": flip("negative", threshold_global),
        "positive_flip_rate": flip("positive", threshold_global),
        "flip_rate_label": flip("any", threshold_label),
    }


def agreement_rows(
    logits: np.ndarray,
    truth: GroundTruth,
    labels: Sequence[str],
    conditions: Sequence[ConditionGroup],
    threshold_global: float,
    threshold_label: FloatArray,
    level: float,
) -> list[Row]:
    """Rows of every condition but the real one, from logits (R, N, L)."""
    n, n_labels = truth.target.shape
    rows: list[Row] = []
    metrics = sample_metrics(logits[0], truth, threshold_global, threshold_label)
    everyone = np.ones((n, 1), dtype=np.bool_)
    for condition in conditions:
        if condition.kind == "real":
            continue
        noisy = condition.kind == "noise"
        for metric, of in metrics.items():
            draws = [of(logits[row]) for row in condition.rows]
            values = np.mean(draws, axis=0)
            counted = ~np.isnan(values)
            used = counted.any(axis=0)
            per_label = mean_interval(values, truth.group, counted, level)
            [pseudo] = macro_values([values], counted, used, truth.group)
            macro = mean_interval(pseudo, truth.group, everyone, level)
            names = [*labels, MACRO]
            mean, lo, hi = (
                np.append(getattr(per_label, part), getattr(macro, part)[0]) for part in ("mean", "lo", "hi")
            )
            counts = [*per_label.n, n]
            n_pos: list[int | None] = [*map(int, truth.n_pos), None]
            flags = ["" if found else _why_empty(metric, truth, k) for k, found in enumerate(used)]
            flags.append("" if used.all() else f"n_labels_used={int(used.sum())}/{n_labels}")
            if noisy:
                for draw, one in zip(condition.draws, draws):
                    own = _column_means(one)
                    own = np.append(own, own[used].mean() if used.any() else np.nan)
                    rows += [
                        long_row(condition, name, metric, own[k], int(counts[k]), n_pos[k], draw)
                        for k, name in enumerate(names)
                    ]
            # Rates and divergences end at zero; only the signed change of probability has two sides.
            floor = -1.0 if metric == "delta_p" else 0.0
            for k, name in enumerate(names):
                line = long_row(
                    condition, name, metric, mean[k], int(counts[k]), n_pos[k], "mean" if noisy else None, flags[k]
                )
                rows.append({**line, "ci_lo": float(np.maximum(lo[k], floor)), "ci_hi": float(hi[k])})
    return rows


def similarity_rows(
    scores: BottleneckScores, conditions: Sequence[ConditionGroup], group: np.ndarray | None, level: float
) -> list[Row]:
    """Cosines of embedding and stages, raw and normalised by the null of different originals, and the null itself."""
    rows: list[Row] = []
    for k, name in enumerate(scores.similarity_name):
        metric = f"{name}_cosine"
        null = float(scores.similarity_null[:, k].mean(dtype=np.float64)) if len(scores.similarity_null) else np.nan
        rows.append(long_row(NULL, ALL, metric, null, len(scores.similarity_null), None))
        for condition in conditions:
            if condition.kind == "real":
                continue
            noisy = condition.kind == "noise"
            draws = scores.similarity[list(condition.rows), :, k].astype(np.float64)
            found = mean_interval(draws.mean(axis=0)[:, None], group, None, level)
            n = int(found.n[0])

            def rescaled(value: float, null: float = null) -> float:
                return float((value - null) / (1 - null)) if null < 1 else float("nan")

            identity: Callable[[float], float] = float
            for suffix, scale in (("", identity), ("_normalised", rescaled)):
                if noisy:
                    rows += [
                        long_row(condition, ALL, metric + suffix, scale(float(one.mean())), n, None, draw)
                        for draw, one in zip(condition.draws, draws)
                    ]
                line = long_row(
                    condition, ALL, metric + suffix, scale(found.mean[0]), n, None, "mean" if noisy else None
                )
                rows.append({**line, "ci_lo": scale(found.lo[0]), "ci_hi": min(scale(found.hi[0]), 1.0)})
    return rows


def _column_means(values: FloatArray) -> FloatArray:
    counted = ~np.isnan(values)
    total = np.where(counted, values, 0.0).sum(axis=0)
    return np.where(counted.any(axis=0), total / np.maximum(counted.sum(axis=0), 1), np.nan)


def _why_empty(metric: str, truth: GroundTruth, label: int) -> str:
    if metric == "erased":
        return "undefined: no positives"
    if metric == "hallucinated":
        return "undefined: no negatives"
    if metric.startswith(("flip", "negative_flip", "positive_flip")) and truth.n[label] > 0:
        return "undefined: no threshold"
    return truth.reason(label) or "undefined: no known values"
