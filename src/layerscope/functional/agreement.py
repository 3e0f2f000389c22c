"""How far the teacher's answer on a condition is from its answer on the original, per sample and label.

Arguments are logits of the original (o) and of the condition (c), any common shape (..., N, L). Results are float64
arrays of that shape, ready for `intervals.mean_interval`, which leaves NaN out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from layerscope.functional.scored_labels import BoolArray, FloatArray, known_mask


@dataclass(frozen=True)
class Flips:
    """Decisions that changed, bool, shape of the logits.

    any: the decision differs from that on the original; needs no ground truth.
    negative: right on the original, wrong on the condition; False where the label is unknown.
    positive: wrong on the original, right on the condition; False where the label is unknown.
    """

    any: BoolArray
    negative: BoolArray
    positive: BoolArray


def delta_p(logits_o: ArrayLike, logits_c: ArrayLike) -> FloatArray:
    """Change of probability, p_c - p_o, in [-1, 1]; negative where the condition hides what the teacher saw."""
    return expit(np.asarray(logits_c, dtype=np.float64)) - expit(np.asarray(logits_o, dtype=np.float64))


def abs_delta_p(logits_o: ArrayLike, logits_c: ArrayLike) -> FloatArray:
    """Size of the change of probability, in [0, 1]; 0 is full agreement."""
    return np.abs(delta_p(logits_o, logits_c))


def erased(logits_o: ArrayLike, logits_c: ArrayLike, target: ArrayLike, known: ArrayLike | None = None) -> FloatArray:
    """Probability lost on positives, max(p_o - p_c, 0) in [0, 1]; NaN on everything that is not a known positive."""
    positive, _ = known_mask(target, known)
    return np.where(positive, np.maximum(-delta_p(logits_o, logits_c), 0.0), np.nan)


def hallucinated(
    logits_o: ArrayLike, logits_c: ArrayLike, target: ArrayLike, known: ArrayLike | None = None
) -> FloatArray:
    """Probability gained on negatives, max(p_c - p_o, 0) in [0, 1]; NaN on everything that is not a known negative."""
    positive, mask = known_mask(target, known)
    return np.where(mask & ~positive, np.maximum(delta_p(logits_o, logits_c), 0.0), np.nan)


def _log_p_and_q(logits: ArrayLike) -> tuple[FloatArray, FloatArray]:
    x = np.asarray(logits, dtype=np.float64)
    return -np.logaddexp(0.0, -x), -np.logaddexp(0.0, x)


def bernoulli_kl(logits_o: ArrayLike, logits_c: ArrayLike) -> FloatArray:
    """Kullback-Leibler divergence KL(p_o || p_c) of two Bernoulli distributions, in nats, from 0 upwards.

    Computed from logits without clipping probabilities, so confident teachers keep their full divergence.

    >>> float(bernoulli_kl(1000.0, -1000.0))
    1000.0
    """
    log_p_o, log_q_o = _log_p_and_q(logits_o)
    log_p_c, log_q_c = _log_p_and_q(logits_c)
    divergence = np.exp(log_p_o) * (log_p_o - log_p_c) + np.exp(log_q_o) * (log_q_o - log_q_c)
    return np.maximum(divergence, 0.0)


def bernoulli_js(logits_o: ArrayLike, logits_c: ArrayLike) -> FloatArray:
    """Jensen-Shannon divergence of two Bernoulli distributions, in nats, symmetric, in [0, ln 2]."""
    log_p_o, log_q_o = _log_p_and_q(logits_o)
    log_p_c, log_q_c = _log_p_and_q(logits_c)
    log_p_m = np.logaddexp(log_p_o, log_p_c) - np.log(2.0)
    log_q_m = np.logaddexp(log_q_o, log_q_c) - np.log(2.0)
    from_o = np.exp(log_p_o) * (log_p_o - log_p_m) + np.exp(log_q_o) * (log_q_o - log_q_m)
    from_c = np.exp(log_p_c) * (log_p_c - log_p_m) + np.exp(log_q_c) * (log_q_c - log_q_m)
    return np.clip(0.5 * (from_o + from_c), 0.0, np.log(2.0))


def flips(
    logits_o: ArrayLike,
    logits_c: ArrayLike,
    target: ArrayLike,
    threshold: float | ArrayLike,
    known: ArrayLike | None = None,
) -> Flips:
    """Decisions ``logit >= threshold`` that changed between original and condition.

    Args:
        target: (N, L) in {0, 1}; known: (N, L) or None.
        threshold: a logit, scalar or (L,); no decision exists, and so no flip, where it is NaN.

    The negative flip rate of Yan et al. (2021) is the mean of `negative` over all known samples.
    """
    positive, mask = known_mask(target, known)
    # float64 on both sides: a midpoint between neighbouring float32 logits would round onto one of them.
    tau = np.asarray(threshold, dtype=np.float64)
    called_o = np.asarray(logits_o, dtype=np.float64) >= tau
    called_c = np.asarray(logits_c, dtype=np.float64) >= tau
    changed = called_o != called_c
    return Flips(changed, changed & mask & (called_o == positive), changed & mask & (called_c == positive))
