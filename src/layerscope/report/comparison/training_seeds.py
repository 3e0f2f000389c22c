"""Whether the runs of one candidate are trainings of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from layerscope.artifacts.scores import BottleneckScores
from layerscope.errors import ConfigurationError
from layerscope.report.comparison.protocol import noise
from layerscope.report.comparison.runs import ComparedRun


def check_training_seeds(runs: Sequence[ComparedRun]) -> None:
    """Copies and further noise draws of one training would be counted as training seeds, with no spread between them.

    Raises:
        ConfigurationError: two runs of a candidate are of the same autoencoder, have the same logits, or latents of
            other shapes.
    """
    for one, other in combinations(runs, 2):
        why = _no_pair_of_seeds(one, other) if one.candidate == other.candidate else ""
        if why:
            raise ConfigurationError(
                f"{one.path} and {other.path} are given as training seeds of {one.candidate!r}, but {why}. Leave one "
                "out, or call their candidates differently by NAME=DIR."
            )


def _no_pair_of_seeds(one: ComparedRun, other: ComparedRun) -> str:
    hashes = [(run.summary.get("model_hashes") or {}).get("autoencoder") for run in (one, other)]
    if hashes[0] and hashes[0] == hashes[1]:
        return f"both are of one autoencoder (hash of its weights {str(hashes[0])[:12]}): a copy, or other noise draws"
    if np.array_equal(_logits(one), _logits(other)):
        return "all their logits are equal: one is a copy of the other"
    shapes = [noise(run, "latent_shape") for run in (one, other)]
    if all(shapes) and list(shapes[0]) != list(shapes[1]):
        return f"their latents have other shapes, {shapes[0]} and {shapes[1]}: they differ in more than the seed"
    return ""


def _logits(run: ComparedRun) -> np.ndarray:
    """What no two trainings share: logits of the reconstructions without noise, or a classifier's."""
    scores = run.scores
    return scores.logits[scores.recon_row] if isinstance(scores, BottleneckScores) else scores.logits
