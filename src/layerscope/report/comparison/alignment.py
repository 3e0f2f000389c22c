"""The images and labels that all runs of a comparison share, in one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from layerscope.artifacts.scores import LabelScores
from layerscope.errors import ArtifactError, ConfigurationError
from layerscope.report.comparison.runs import ComparedRun
from layerscope.report.label_metrics import GroundTruth

Scores = TypeVar("Scores", bound=LabelScores)

# Axes of the arrays that are neither per sample nor per label throughout.
_SAMPLE_AXIS = {"id": 0, "group": 0, "target": 0, "known": 0, "logits": -2, "similarity": 1, "quality": 0}
_LABEL_AXIS = {
    "target": 1,
    "known": 1,
    "label": 0,
    "label_display": 0,
    "evaluated": 0,
    "logits": -1,
    "threshold_label": 0,
}


@dataclass(frozen=True)
class Aligned:
    """Runs whose scores are of the same images and evaluated labels, in the order of the first run.

    n_left_out: images of the first run that another lacks. n_contradictory: images left out because their labels
    differ between runs.
    """

    runs: Sequence[ComparedRun]
    n_left_out: int
    n_contradictory: int


def evaluated_labels(scores: LabelScores) -> list[str]:
    """Names of the labels that the schema evaluates, in the order of the data."""
    return [str(name) for name in scores.label[scores.evaluated.astype(np.bool_)]]


def align(runs: Sequence[ComparedRun]) -> Aligned:
    """The common images, by id, and the common evaluated labels, by name; images whose labels differ are left out.

    Raises:
        ArtifactError: a run has two images of one id or two labels of one name.
        ConfigurationError: the runs share no image or no evaluated label.
    """
    for run in runs:
        for what, names in (("images", run.scores.id), ("labels", run.scores.label)):
            if len(np.unique(names)) < len(names):
                raise ArtifactError(
                    f"The scores of {run.title} in {run.path} hold two {what} of one name, so they cannot be paired "
                    "with those of other runs. Run the diagnosis again on data with unique names."
                )
    first = runs[0].scores
    ids, labels = first.id.astype(np.str_), evaluated_labels(first)
    for run in runs[1:]:
        ids = ids[np.isin(ids, run.scores.id.astype(np.str_))]
        theirs = set(evaluated_labels(run.scores))
        labels = [name for name in labels if name in theirs]
    if not len(ids) or not labels:
        what = "image" if not len(ids) else "evaluated label"
        raise ConfigurationError(
            f"The runs share no {what}, so nothing can be compared: {runs[0].title} has {len(first.id)} images and the "
            f"labels {', '.join(evaluated_labels(first)) or '(none)'}. Diagnose all candidates on the same data."
        )
    common = [replace(run, scores=_selected(run.scores, ids, labels)) for run in runs]
    agree = np.ones(len(ids), dtype=np.bool_)
    for run in common[1:]:
        agree &= same_truth(common[0].scores, run.scores).all(axis=1)
    if not agree.any():
        raise ConfigurationError(
            f"The labels of all {len(ids)} common images differ between the runs, so nothing can be compared. Diagnose "
            "all candidates on the same data."
        )
    if not agree.all():
        kept = ids[agree]
        common = [replace(run, scores=_selected(run.scores, kept, labels)) for run in common]
    return Aligned(common, len(first.id) - len(ids), int((~agree).sum()))


def same_truth(one: LabelScores | GroundTruth, other: LabelScores | GroundTruth) -> np.ndarray:
    """(N, L) whether the labels are the same: both unknown, or both known and equal. The shapes must be the same."""
    known = one.known.astype(np.bool_), other.known.astype(np.bool_)
    return np.asarray((known[0] == known[1]) & (~known[0] | (one.target == other.target)))


def places_of(wanted: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Where each of the wanted names stands among names that hold them all."""
    order = np.argsort(names, kind="stable")
    return np.asarray(order[np.searchsorted(names, wanted, sorter=order)])


def _selected(scores: Scores, ids: np.ndarray, labels: Sequence[str]) -> Scores:
    """The scores of these images and labels, in this order; the very same where that is all there is."""
    rows = places_of(ids, scores.id.astype(np.str_))
    columns = places_of(np.array(labels, dtype=np.str_), scores.label.astype(np.str_))
    all_rows = np.array_equal(rows, np.arange(len(scores.id)))
    all_columns = np.array_equal(columns, np.arange(len(scores.label)))
    if all_rows and all_columns:
        return scores
    changes: dict[str, Any] = {}
    for field in fields(scores):
        value = getattr(scores, field.name)
        if not all_rows and field.name in _SAMPLE_AXIS and len(value):
            value = np.take(value, rows, axis=_SAMPLE_AXIS[field.name])
        if not all_columns and field.name in _LABEL_AXIS:
            value = np.take(value, columns, axis=_LABEL_AXIS[field.name])
        changes[field.name] = value
    return replace(scores, **changes)
