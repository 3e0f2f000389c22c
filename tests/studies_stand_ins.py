"""Scores for the studies' tests: an AUROC that depends on the arm's signal, with patients and seeds."""

from __future__ import annotations

import numpy as np

from layerscope.artifacts import BottleneckScores

CONDITIONS = ["real", "recon", "t52", "t52", "t153", "t330"]


def synthetic_scores(signal: float, seed: int, n: int = 240) -> BottleneckScores:
    """n images of patients with two images each and two labels; noise weakens the signal.

    The images, labels and the real row are the same for all; what differs by seed is the condition's own error.
    """
    images, own = np.random.default_rng(0), np.random.default_rng([seed, int(100 * signal)])
    target = (images.random((n, 2)) < 0.3).astype(np.uint8)
    patient = np.repeat(images.standard_normal((n // 2, 2)), 2, axis=0)
    shared = 0.6 * patient + 0.6 * images.standard_normal((n, 2))
    fade = [3.0, signal, 0.8 * signal, 0.8 * signal, 0.6 * signal, 0.3 * signal]
    logits = np.stack([f * (target - 0.5) + shared for f in fade]).astype(np.float32)
    logits[1:] += 0.3 * own.standard_normal(logits[1:].shape).astype(np.float32)
    noise = np.array([-1, -1, 52, 52, 153, 330])
    return BottleneckScores(
        id=np.array([f"{i:04d}" for i in range(n)]),
        group=np.array([f"p{i // 2:04d}" for i in range(n)]),
        target=target,
        known=np.ones((n, 2), dtype=bool),
        label=np.array(["small", "large"]),
        label_display=np.array(["Small", "Large"]),
        evaluated=np.array([True, True]),
        logits=logits,
        threshold_global=0.0,
        threshold_label=np.zeros(2),
        threshold_source="test",
        condition=np.array(CONDITIONS),
        kind=np.array(["real", "recon", *["noise"] * 4]),
        t=noise,
        draw=np.array([-1, -1, 0, 1, 0, 0]),
        log_snr=np.where(noise > 0, 5 - noise / 50, np.nan),
        log_snr_eff=np.where(noise > 0, 5 - noise / 50, np.nan),
        similarity_name=np.array([], dtype=str),
        similarity=np.zeros((6, n, 0), dtype=np.float32),
        similarity_null=np.zeros((0, 0), dtype=np.float32),
        quality_name=np.array([], dtype=str),
        quality=np.zeros((len(target), 0), dtype=np.float32),
    )
