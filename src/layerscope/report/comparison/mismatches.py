"""What differs between runs although a comparison needs it equal, in one sentence each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from layerscope.errors import listed
from layerscope.report.comparison.alignment import evaluated_labels, places_of, same_truth
from layerscope.report.comparison.runs import ComparedRun
from layerscope.report.label_metrics import GroundTruth

# Devices round logits differently, and thresholds with them.
_ROUNDING = 1e-4

# Of the logits' standard deviation: devices and half precision round by less, other resizing changes more.
_OTHER_PIXELS = 0.02


def mismatches(runs: Sequence[ComparedRun]) -> list[str]:
    """Sentences on every run that differs from the first in data, labels, teacher or thresholds.

    Classifier runs are of different teachers on purpose, each with thresholds of its own.
    """
    checks: list[Callable[[ComparedRun, ComparedRun], str]] = [_data, _labels, _images, _truth, _groups]
    if runs[0].kind == "bottleneck":
        checks += [_teacher, _answers, _thresholds]
    return [found for run in runs[1:] for check in checks if (found := check(runs[0], run))]


def _data(one: ComparedRun, other: ComparedRun) -> str:
    splits = [run.summary.get("split") for run in (one, other)]
    hashes = [run.summary.get("data_hash") for run in (one, other)]
    if all(splits) and splits[0] != splits[1]:
        return f"The split is {splits[0]} in {one.title} and {splits[1]} in {other.title}."
    if all(hashes) and hashes[0] != hashes[1]:
        return f"The data hash is {_short(hashes[0])} in {one.title} and {_short(hashes[1])} in {other.title}."
    return ""


def _teacher(one: ComparedRun, other: ComparedRun) -> str:
    hashes = [(run.summary.get("model_hashes") or {}).get("teacher") for run in (one, other)]
    if all(hashes) and hashes[0] != hashes[1]:
        return (
            f"The teacher is {_short(hashes[0])} in {one.title} and {_short(hashes[1])} in {other.title} (hash of its "
            "weights)."
        )
    return ""


def _answers(one: ComparedRun, other: ComparedRun) -> str:
    """Neither hash covers the pixels that the teacher saw; its logits on the real images do."""
    ids, labels = _common(one, other)
    if not len(ids) or not labels:
        return ""
    first, second = (run.scores.logits[0][_cells(run, ids, labels)].astype(np.float64) for run in (one, other))
    counted = np.isfinite(first) & np.isfinite(second)
    if not counted.any():
        return ""
    # About the mean of each label: how far labels are apart says nothing on what the images change.
    centre = np.where(counted, first, 0.0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    spread = math.sqrt(float(np.square(first - centre)[counted].mean()))
    apart = math.sqrt(float(np.square(first - second)[counted].mean()))
    if apart <= _OTHER_PIXELS * spread:
        return ""
    return (
        f"The teacher's answers on the real images differ between {one.title} and {other.title}: by {apart:.3g} (root "
        f"mean square of {len(ids)} common images, logits) where they vary by {spread:.3g}; it saw other pixels, other "
        "resizing or other preprocessing."
    )


def _labels(one: ComparedRun, other: ComparedRun) -> str:
    named = [set(map(str, run.scores.label)) for run in (one, other)]
    judged = [set(evaluated_labels(run.scores)) for run in (one, other)]
    for sets, what in ((named, "labels"), (judged, "evaluated labels")):
        if sets[0] != sets[1]:
            alone = ((one, sets[0] - sets[1]), (other, sets[1] - sets[0]))
            only = [f"only in {run.title}: {listed(sorted(names))}" for run, names in alone if names]
            return f"{one.title} has {len(sets[0])} {what} and {other.title} {len(sets[1])}; {'; '.join(only)}."
    return ""


def _images(one: ComparedRun, other: ComparedRun) -> str:
    first, second = (set(run.scores.id.astype(np.str_).tolist()) for run in (one, other))
    if first == second:
        return ""
    return (
        f"{one.title} has {len(first)} images and {other.title} {len(second)}; {len(first & second)} are in both, by "
        "their ids."
    )


def _truth(one: ComparedRun, other: ComparedRun) -> str:
    common, labels = _common(one, other)
    if not len(common) or not labels:
        return ""
    differ = ~same_truth(_of(one, common, labels), _of(other, common, labels))
    if not differ.any():
        return ""
    names = [labels[k] for k in np.flatnonzero(np.asarray(differ.any(axis=0)))]
    return (
        f"The ground truth of {int(differ.any(axis=1).sum())} of {len(common)} common images differs between "
        f"{one.title} and {other.title}, in {listed(names)}."
    )


def _common(one: ComparedRun, other: ComparedRun) -> tuple[np.ndarray, list[str]]:
    """Ids and evaluated labels of both."""
    theirs = set(evaluated_labels(other.scores))
    return (
        np.intersect1d(one.scores.id.astype(np.str_), other.scores.id.astype(np.str_)),
        [name for name in evaluated_labels(one.scores) if name in theirs],
    )


def _cells(run: ComparedRun, ids: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Indices of these images and labels in the run's arrays (N, L)."""
    rows = places_of(ids, run.scores.id.astype(np.str_))
    columns = places_of(np.array(labels, dtype=np.str_), run.scores.label.astype(np.str_))
    return np.ix_(rows, columns)


def _of(run: ComparedRun, ids: np.ndarray, labels: Sequence[str]) -> GroundTruth:
    cells = _cells(run, ids, labels)
    return GroundTruth(run.scores.target[cells], run.scores.known[cells], None)


def _groups(one: ComparedRun, other: ComparedRun) -> str:
    first, second = one.scores.groups, other.scores.groups
    if first is None and second is None:
        return ""
    if first is None or second is None:
        with_groups, without = (other, one) if first is None else (one, other)
        return f"{with_groups.title} names groups (patients) and {without.title} none."
    common = np.intersect1d(one.scores.id.astype(np.str_), other.scores.id.astype(np.str_))
    places = [places_of(common, run.scores.id.astype(np.str_)) for run in (one, other)]
    n_others = int((first[places[0]] != second[places[1]]).sum())
    if not n_others:
        return ""
    return f"The group (patient) of {n_others} common images differs between {one.title} and {other.title}."


def _thresholds(one: ComparedRun, other: ComparedRun) -> str:
    values = [run.scores.threshold_global for run in (one, other)]
    if not _same(*values):
        return (
            f"The global threshold is {_logit(values[0])} in {one.title} and {_logit(values[1])} in {other.title} "
            "(logits)."
        )
    theirs = dict(zip(map(str, other.scores.label), other.scores.threshold_label))
    judged = set(evaluated_labels(one.scores)) & set(evaluated_labels(other.scores))
    differ = [
        f"{name} {_logit(value)} and {_logit(theirs[str(name)])}"
        for name, value in zip(one.scores.label, one.scores.threshold_label)
        if str(name) in judged and not _same(value, theirs[str(name)])
    ]
    if not differ:
        return ""
    return f"Thresholds of labels differ between {one.title} and {other.title}: {listed(differ, 4)} (logits)."


def _same(one: float, other: float) -> bool:
    return bool(np.isclose(one, other, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True))


def _logit(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def _short(value: Any) -> str:
    return str(value)[:12]
