"""Which labels of a task's scores are evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerscope.artifacts.scores import LabelScores
from layerscope.errors import ArtifactError
from layerscope.functional.intervals import group_index
from layerscope.report.label_metrics import GroundTruth
from layerscope.report.rows import unreserved


@dataclass(frozen=True)
class EvaluatedLabels:
    """The labels of a task's scores that the schema evaluates.

    columns: their places among all labels. names: unique in the tables. display: name to what figures show.
    """

    columns: np.ndarray
    names: list[str]
    display: dict[str, str]
    truth: GroundTruth

    @classmethod
    def of(cls, scores: LabelScores) -> EvaluatedLabels:
        """Raises ArtifactError where there is no label or no sample."""
        columns = np.flatnonzero(scores.evaluated)
        if not len(columns) or not len(scores.id):
            raise ArtifactError(
                f"The scores hold {len(scores.id)} samples and {len(columns)} evaluated labels; at least one of each "
                "is needed. Check the split and the `evaluated` entries of the label schema."
            )
        names = [unreserved(str(scores.label[k])) for k in columns]
        group = None if scores.groups is None else group_index(scores.groups)
        return cls(
            columns,
            names,
            {name: str(scores.label_display[k]) for name, k in zip(names, columns)},
            GroundTruth(scores.target[:, columns], scores.known[:, columns].astype(np.bool_), group),
        )
