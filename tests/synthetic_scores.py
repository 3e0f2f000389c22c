"""Small scores with a known truth for the tests of the report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from layerscope.artifacts import BottleneckScores, ClassifierScores

STEPS = ((14, 4.3), (330, 0.2), (875, -4.0))


def make_scores(
    n: int = 240,
    n_labels: int = 3,
    seed: int = 0,
    steps: tuple[tuple[int, float], ...] = STEPS,
    controls: bool = True,
    n_stages: int = 1,
    groups: bool = False,
    **changes: Any,
) -> BottleneckScores:
    """Scores of a teacher whose first label is erased by the reconstruction; noise drowns the others step by step.

    changes: arrays that replace those made here. One score in ten is unknown; scores are rounded, so there are ties.
    """
    rng = np.random.default_rng(seed)
    target = (rng.random((n, n_labels)) < 0.3).astype(np.uint8)
    known = rng.random((n, n_labels)) > 0.1
    strength = np.full(n_labels, 2.5)
    background = rng.normal(size=(n, n_labels)) - 1.2
    keep = np.ones(n_labels)
    keep[0] = 0.0

    def seen(share: np.ndarray, jitter: float) -> np.ndarray:
        scores = target * strength * share + background + jitter * rng.normal(size=(n, n_labels))
        return np.round(scores, 2).astype(np.float32)

    rows: list[tuple[str, str, int, int, float, np.ndarray]] = [
        ("real", "real", -1, -1, math.nan, seen(np.ones(n_labels), 0.0)),
        ("recon", "recon", -1, -1, math.nan, seen(keep, 0.05)),
    ]
    for t, log_snr in steps:
        for draw in range(2 if t >= 150 else 1):
            rows.append((f"t{t}", "noise", t, draw, log_snr, seen(keep / (1 + math.exp(-log_snr - 1)), 0.5)))
    if controls:
        rows.append(("jpeg_q75", "control", -1, -1, math.nan, seen(np.full(n_labels, 0.95), 0.1)))
        rows.append(("down8", "control", -1, -1, math.nan, seen(np.full(n_labels, 0.6), 0.1)))
    names = ["embedding"] + [f"stage{i}.{kind}" for i in range(n_stages) for kind in ("pooled", "position")]
    names = names if n_stages else []
    similarity = rng.uniform(0.8, 1.0, (len(rows), n, len(names)))
    similarity[0] = 1.0
    log_snr = np.array([row[4] for row in rows])
    values: dict[str, Any] = {
        "id": np.array([f"image{i}" for i in range(n)]),
        "group": np.array([f"patient{i // 4}" for i in range(n)]) if groups else np.array([], dtype=np.str_),
        "target": target,
        "known": known,
        "label": np.array([f"label{k}" for k in range(n_labels)]),
        "label_display": np.array([f"Label {k}" for k in range(n_labels)]),
        "evaluated": np.ones(n_labels, dtype=np.bool_),
        "condition": np.array([row[0] for row in rows]),
        "kind": np.array([row[1] for row in rows]),
        "t": np.array([row[2] for row in rows]),
        "draw": np.array([row[3] for row in rows]),
        "log_snr": log_snr,
        "log_snr_eff": log_snr - 0.5,
        "logits": np.stack([row[5] for row in rows]),
        "threshold_global": 0.1,
        "threshold_label": np.linspace(-0.2, 0.4, n_labels),
        "threshold_source": "threshold.json",
        "similarity_name": np.array(names, dtype=np.str_),
        "similarity": similarity.astype(np.float32),
        "similarity_null": rng.uniform(0.1, 0.3, (50 if names else 0, len(names))).astype(np.float32),
        "quality_name": np.array(["psnr_db", "ssim"]),
        "quality": np.stack([rng.normal(28, 2, n), rng.uniform(0.7, 0.9, n)], axis=1).astype(np.float32),
    }
    return BottleneckScores(**{**values, **changes})


def with_recon(scores: BottleneckScores, logits: np.ndarray) -> BottleneckScores:
    """The same scores with other logits (N, L) of the reconstruction."""
    changed = scores.logits.copy()
    changed[scores.recon_row] = logits
    return replaced(scores, logits=changed)


def replaced(scores: BottleneckScores, **changes: Any) -> BottleneckScores:
    """The same scores with other arrays."""
    return BottleneckScores(**{**vars(scores), **changes})


def classifier_scores(n_labels: int = 3, absent: bool = False) -> ClassifierScores:
    """The real images of ``make_scores`` as a classifier evaluation; ``absent`` removes the last label's positives."""
    scores = make_scores(n_labels=n_labels)
    target = scores.target.copy()
    if absent:
        target[:, -1] = 0
    return ClassifierScores(
        id=scores.id,
        group=scores.group,
        target=target,
        known=scores.known,
        label=scores.label,
        label_display=scores.label_display,
        evaluated=scores.evaluated,
        logits=scores.logits[0],
        threshold_global=scores.threshold_global,
        threshold_label=scores.threshold_label,
        threshold_source="val",
    )
