"""Run directories with given scores, for whatever reads them again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from layerscope.artifacts import BottleneckScores, ClassifierScores, open_run_directory

NOISE: Mapping[str, Any] = {
    "schedule": "sdxl",
    "convention": "variance preserving",
    "posterior": "mean",
    "latent_normalisation": "measured",
    "denoiser": "none",
    "noise_seed": 0,
    "latent_shape": [4, 32, 32],
}
"""What a diagnosis says on its noise."""


def write_run(path: Path, scores: BottleneckScores | ClassifierScores, **changes: Any) -> Path:
    """A finished run directory with summary.json and scores.npz; changes: entries of the summary instead of those here.

    Entries that are None are left out, as in runs of an older version.
    """
    diagnosis = isinstance(scores, BottleneckScores)
    summary: dict[str, Any] = {
        "task": "vae_bottleneck" if diagnosis else "classifier",
        "experiment_name": path.name,
        "split": "test",
        "data_hash": "d" * 64,
        "device": "cpu (x86_64)",
        "precision": "32-true",
        "labels": list(map(str, scores.label)),
        "counts": {"images": len(scores.id)},
        "not_measured": [],
    }
    if diagnosis:
        weights = hashlib.sha256(str(path).encode()).hexdigest()
        summary |= {"noise": dict(NOISE), "model_hashes": {"teacher": "t" * 64, "autoencoder": weights}}
    summary |= changes
    with open_run_directory(path).staged() as stage:
        stage.write_npz("scores.npz", {name: np.asarray(value) for name, value in scores.arrays().items()})
        stage.write_json("summary.json", {name: value for name, value in summary.items() if value is not None})
    return path
