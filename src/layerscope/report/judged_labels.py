"""Which labels may decide something: enough independent units, and a teacher that recognises them on real images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerscope.functional.verdict import too_few
from layerscope.report.estimates import Estimates
from layerscope.report.label_metrics import GroundTruth
from layerscope.report.sentences import short


def units(truth: GroundTruth, label: int) -> tuple[int, int]:
    """Independent units with a positive and with a negative: patients where there are any, images otherwise."""
    target, known = truth.target[:, label], truth.known[:, label]
    positive, negative = ((target == value) & known for value in (1, 0))
    if truth.group is None:
        return int(positive.sum()), int(negative.sum())
    return len(np.unique(truth.group[positive])), len(np.unique(truth.group[negative]))


def thin_labels(truth: GroundTruth) -> list[str]:
    """Why a defined label has too few units for an interval, one entry per label; empty where it has enough."""
    grouped = truth.group is not None
    return [too_few(*units(truth, k), grouped) if defined else "" for k, defined in enumerate(truth.defined)]


def judged_labels(truth: GroundTruth, thin: Sequence[str]) -> np.ndarray:
    """(L,) the labels of the average that is judged: those with enough units, or all defined ones where none has.

    A label with too few units adds next to nothing to the standard error of an average, whatever its true spread: with
    one positive a label, a 95 % interval held the truth in 20 % of redraws. So such labels are left out.
    """
    enough = truth.defined & ~np.array([bool(why) for why in thin])
    return enough if enough.any() else truth.defined


def unrecognised(auroc: Estimates, column: int, what: str, margin: float) -> str:
    """Why nothing can be lost: AUROC on real images may be so near chance that it cannot fall by the margin."""
    value, lo, hi = (float(cell[0, column]) for cell in (auroc.value, auroc.lo, auroc.hi))
    if not lo <= 0.5 + margin:
        return ""
    figures = f"AUROC {short(value, 2)} [{short(lo, 2)}, {short(hi, 2)}]"
    return f"the teacher does not recognise {what} on real images ({figures})"
