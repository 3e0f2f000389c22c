"""The loss of a classifier on reconstructions, where labels exist."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.losses.frozen import Frozen
from layerscope.losses.inputs import LossInputs
from layerscope.losses.term import LossTerm
from layerscope.protocols import Teacher


class TeacherClassification(LossTerm):
    """Binary cross-entropy of teacher(x̂) with the labels, in nats: the mean over the known labels of the batch.

    Zero where the batch has no known label. The reconstruction is not clamped, as in feature matching.

    Args:
        teacher: satisfies ``layerscope.protocols.Teacher``, with the labels of the data. Frozen.
        name, weight: of the term.

    Raises:
        ConfigurationError: no teacher, or, at the first batch, one of another number of labels than the data.
    """

    needs_labels = True

    def __init__(self, teacher: nn.Module, name: str = "teacher_classification", weight: float = 1.0) -> None:
        super().__init__(name, weight)
        if not isinstance(teacher, Teacher):
            raise ConfigurationError(
                f"{name} needs a classifier, and {type(teacher).__name__} is no layerscope.protocols.Teacher."
            )
        self._teacher = Frozen(teacher)

    def forward(self, inputs: LossInputs) -> Tensor:
        if inputs.target is None or inputs.known is None:
            raise ConfigurationError(f"{self.name} needs target and known, and the inputs have none.")
        logits: Tensor = self._teacher.on(inputs.recon.device)(inputs.recon)
        if logits.shape != inputs.target.shape:
            raise ConfigurationError(
                f"The teacher of {self.name} gives {logits.shape[-1]} logits and the data has "
                f"{inputs.target.shape[-1]} labels. Use the teacher that was trained on these labels."
            )
        elements = F.binary_cross_entropy_with_logits(logits.float(), inputs.target.float(), reduction="none")
        return (elements * inputs.known).sum() / inputs.known.sum().clamp_min(1)
