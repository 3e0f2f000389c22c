"""How near reconstructions come to their originals, over the images of a split."""

from __future__ import annotations

import math

import numpy as np

from layerscope.artifacts.scores import BottleneckScores
from layerscope.functional.intervals import mean_interval

QUALITY_NAMES = {"psnr_db": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"}
"""Figures of a reconstruction against its original, and what they are called in text."""

_BOUNDS = {"ssim": (-1.0, 1.0), "lpips": (0.0, math.inf)}
"""Where an interval ends at the latest."""


def reconstruction_means(scores: BottleneckScores, level: float) -> dict[str, dict[str, float]]:
    """Figure to ``value``, the mean over images, ``ci_lo``, ``ci_hi``, clustered by group, and ``std`` over images.

    All NaN where an image has no finite figure; ``quality_not_measured`` says so.
    """
    found = {}
    for name, values in zip(scores.quality_name.tolist(), scores.quality.T.astype(np.float64)):
        usable = values if np.isfinite(values).all() else np.full_like(values, np.nan)
        mean = mean_interval(usable, scores.groups, None, level)
        lowest, highest = _BOUNDS.get(name, (-math.inf, math.inf))
        found[name] = {
            "value": float(mean.mean),
            "ci_lo": float(np.maximum(mean.lo, lowest)),
            "ci_hi": float(np.minimum(mean.hi, highest)),
            "std": float(usable.std(ddof=1)) if len(usable) > 1 else math.nan,
        }
    return found


def quality_not_measured(scores: BottleneckScores) -> list[dict[str, str]]:
    """Figures that the scores lack, and means that are not defined."""
    there = dict(zip(scores.quality_name.tolist(), scores.quality.T))
    missing = []
    for name, shown in QUALITY_NAMES.items():
        if name not in there:
            missing.append({"what": shown, "reason": "the scores do not hold it"})
        else:
            missing += mean_not_defined(shown, there[name])
    return missing


def mean_not_defined(shown: str, values: np.ndarray) -> list[dict[str, str]]:
    """Why figures (N,) of single images have no mean; empty where they have one."""
    exact, undefined = int(np.isposinf(values).sum()), int((~np.isfinite(values)).sum())
    if not undefined:
        return []
    reason = f"{exact} of {len(values)} images came back exactly, with infinite {shown}"
    if exact < undefined:
        reason = f"it is not finite for {undefined} of {len(values)} images"
    return [{"what": f"mean {shown}", "reason": reason}]
