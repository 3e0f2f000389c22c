"""A teacher's scores on a split of real images, and the thresholds that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, NumericalError
from layerscope.metrics.table import IndexedTable
from layerscope.types import LabelSet


@dataclass(frozen=True)
class Scores:
    """Logits (N, L) float32 with targets (N, L) in {0, 1} and known (N, L) bool, in the order of the split."""

    logits: NDArray[np.float32]
    target: NDArray[np.uint8]
    known: NDArray[np.bool_]


def check_label_count(teacher: object, labels: LabelSet) -> None:
    """The teacher must answer for exactly the labels of the data."""
    outputs = getattr(teacher, "num_labels", None)
    if outputs != len(labels):
        raise ConfigurationError(
            f"The teacher has {outputs} outputs, but the label schema names {len(labels)} labels "
            f"({', '.join(labels.names[:8])}{', …' if len(labels) > 8 else ''}). Use the schema the teacher was "
            "trained with, or set the teacher's num_labels and weights to match."
        )


def check_finite(logits: Tensor, ids: list[str], where: str) -> None:
    """NaN or infinite logits would silently rank somewhere: an error with the samples' names."""
    finite = torch.isfinite(logits).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = [name for name, ok in zip(ids, finite.tolist()) if not ok]
        raise NumericalError(
            f"The teacher gave NaN or infinite logits on {where} for {len(bad)} images (first: {', '.join(bad[:5])}). "
            "Check the teacher's weights and the autoencoder's output range; run in 32-bit precision "
            "(--trainer.precision 32-true) if this happens only in half precision."
        )


@torch.no_grad()
def score_split(module: LightningModule, teacher: nn.Module, loader: Any) -> Scores:
    """One pass of the teacher over real images outside of Lightning's own loops, complete on every process."""
    dataset = loader.dataset
    table: IndexedTable | None = None
    was_training = teacher.training
    teacher.eval()
    precision = module.trainer.precision_plugin
    for batch in loader:
        # Lightning enters the precision's context for steps only; thresholds must see what the steps will see.
        with precision.forward_context():
            logits = teacher(precision.convert_input(batch["image"].to(module.device))).float()
        check_finite(logits, batch["id"], "real images")
        if table is None:
            table = scores_table(len(dataset), logits.shape[1]).to(module.device)
        table.update(batch["index"], {"logits": logits, "target": batch["target"], "known": batch["known"]})
    teacher.train(was_training)
    if table is None:  # a process without samples still takes part in the sum
        table = scores_table(len(dataset), int(getattr(teacher, "num_labels", 0))).to(module.device)
    return to_scores(table)


def scores_table(rows: int, labels: int) -> IndexedTable:
    """The table behind ``Scores``."""
    return IndexedTable(rows, {"logits": (labels,), "target": (labels,), "known": (labels,)})


def to_scores(table: IndexedTable) -> Scores:
    """The reduced table as NumPy arrays."""
    columns = {name: column.cpu().numpy() for name, column in table.compute().items()}
    return Scores(
        logits=columns["logits"].astype(np.float32),
        target=columns["target"].astype(np.uint8),
        known=columns["known"] > 0.5,
    )
