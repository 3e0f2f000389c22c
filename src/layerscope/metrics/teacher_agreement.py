"""How much a teacher changes its mind between the images of a split and versions of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torchmetrics.wrappers.abstract import WrapperMetric

from layerscope.functional.agreement import abs_delta_p
from layerscope.functional.ranking import auroc, macro
from layerscope.metrics.table import IndexedTable


class TeacherAgreement(WrapperMetric):
    """Mean |Δp| and the drop of macro AUROC of each version against the originals, N images, L labels.

    ``compute`` returns for each version, the empty name standing for the clean reconstruction:

    - ``mean_abs_delta_p[_<version>]``: |p(version) − p(original)| of the teacher's probabilities, mean over images and
      judged labels, in [0, 1]; 0 is full agreement. No ground truth enters. The same figure as ``agreement.csv`` of a
      bottleneck diagnosis.
    - ``delta_auroc[_<version>]``: macro AUROC on the version less that on the originals, in [-1, 1], over the judged
      labels that have positives and negatives; left out where there is none.

    Independent of order, batch size and processes; ``compute`` synchronises.

    Args:
        rows: N, images in the split.
        labels: L, outputs of the teacher.
        judged: bool (L,), labels that count.
        versions: names, such as "" and "t52".
    """

    full_state_update = False
    higher_is_better = None

    def __init__(self, rows: int, labels: int, judged: list[bool], versions: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.judged = np.asarray(judged, dtype=bool)
        self.versions = versions
        names = ["real", "target", "known", *(f"version_{name}" for name in versions)]
        shape: tuple[int, ...] = (labels,)
        self.table = IndexedTable(rows, dict.fromkeys(names, shape))

    def update(self, index: Tensor, target: Tensor, known: Tensor, real: Tensor, versions: dict[str, Tensor]) -> None:
        """Adds a batch: rows (B,), ground truth (B, L), the teacher's logits (B, L) on originals and versions."""
        if target.shape[1] == 0:  # images without labels: no ground truth for the teacher's answers
            target, known = real.new_zeros(real.shape), real.new_zeros(real.shape)
        values = {"real": real, "target": target, "known": known}
        self.table.update(index, values | {f"version_{name}": logits for name, logits in versions.items()})

    def compute(self) -> dict[str, float]:
        """The figures of the whole split."""
        columns = {name: column.cpu().numpy()[:, self.judged] for name, column in self.table.compute().items()}
        truth = columns["target"].astype(np.uint8), columns["known"] > 0.5
        # A macro AUROC of both sides over the same labels: a label without both classes is undefined on each.
        before, defined = macro(auroc(columns["real"], *truth))
        found = {}
        for name in self.versions:
            suffix = f"_{name}" if name else ""
            logits = columns[f"version_{name}"]
            found[f"mean_abs_delta_p{suffix}"] = float(abs_delta_p(columns["real"], logits).mean())
            if defined:
                found[f"delta_auroc{suffix}"] = macro(auroc(logits, *truth))[0] - before
        return found

    def reset(self) -> None:
        """Forgets all images."""
        super().reset()
        self.table.reset()
