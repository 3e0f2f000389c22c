"""Decision thresholds: fitted on the teacher's scores of real validation images, or read from an earlier evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from layerscope.artifacts import Thresholds
from layerscope.data.labelled import labelled_data
from layerscope.errors import ConfigurationError
from layerscope.functional.thresholds import best_global_threshold, best_label_thresholds
from layerscope.tasks.scoring import Scores, score_split
from layerscope.types import LabelSet


@dataclass
class ThresholdSettings:
    """Where decision thresholds come from.

    Args:
        mode: ``global_from_real_val`` reads ``file``; ``search_on_real_val`` runs the teacher over the real
            validation split first and fits them.
        file: the ``threshold.json`` of an evaluated teacher.
    """

    mode: Literal["global_from_real_val", "search_on_real_val"] = "search_on_real_val"
    file: str | None = None


def fit_thresholds(scores: Scores, labels: LabelSet, data_hash: str, teacher_hash: str) -> Thresholds:
    """The exact maximisers of macro-F1 (one threshold for all evaluated labels) and of each label's F1, on val."""
    evaluated = np.asarray(labels.evaluated, dtype=bool)
    if not evaluated.any():
        raise ConfigurationError("The label schema evaluates no label: set evaluated: true for at least one.")
    columns = (scores.logits[:, evaluated], scores.target[:, evaluated], scores.known[:, evaluated])
    global_logit, macro_f1 = best_global_threshold(*columns)
    label_logit, label_f1 = best_label_thresholds(scores.logits, scores.target, scores.known)
    return Thresholds(
        label=labels.names,
        global_logit=float(global_logit),
        macro_f1=float(macro_f1),
        label_logit=tuple(map(float, label_logit)),
        label_f1=tuple(map(float, label_f1)),
        fitted_on="val",
        data_hash=data_hash,
        teacher_hash=teacher_hash,
    )


def search_on_val(module: LightningModule, teacher: nn.Module, hashed: str) -> Thresholds:
    """Fits the thresholds on the validation split of the trainer's datamodule. hashed: the teacher's hash."""
    data: Any = labelled_data(module.trainer)
    rank_zero_info("Fitting decision thresholds on the real validation split.")
    scores = score_split(module, teacher, data.val_dataloader())
    return fit_thresholds(scores, data.labels, data.data_hash("val"), hashed)


def resolve_thresholds(
    settings: ThresholdSettings, module: LightningModule, teacher: nn.Module, hashed: str
) -> Thresholds:
    """The thresholds that ``settings`` ask for, in the order of the data's labels. hashed: the teacher's hash."""
    data = labelled_data(module.trainer)
    match settings.mode:
        case "search_on_real_val":
            if settings.file is not None:
                raise ConfigurationError(
                    f"thresholds.file is {settings.file}, but thresholds.mode is search_on_real_val, which fits them "
                    "anew. Set mode: global_from_real_val to read the file, or remove the file."
                )
            return search_on_val(module, teacher, hashed)
        case "global_from_real_val":
            if settings.file is None:
                raise ConfigurationError(
                    "thresholds.mode is global_from_real_val, but thresholds.file is missing. Give the threshold.json "
                    "that `layerscope test` wrote for the teacher, or set mode: search_on_real_val."
                )
            thresholds = Thresholds.load(settings.file).for_labels(data.labels.names)
            if thresholds.teacher_hash != hashed:
                rank_zero_warn(
                    f"The thresholds in {settings.file} were fitted for another teacher, or for images cut or resized "
                    "in another way (teacher hashes differ). F1 and flips use them all the same; the summary says so."
                )
            if thresholds.data_hash != data.data_hash("val"):
                rank_zero_warn(
                    f"The thresholds in {settings.file} were fitted on another validation split than this data's "
                    "(data hashes differ). F1 and flips use them all the same; the summary says so."
                )
            return thresholds
        case _:
            raise ConfigurationError(
                f"thresholds.mode is {settings.mode!r}: expected global_from_real_val or search_on_real_val."
            )
