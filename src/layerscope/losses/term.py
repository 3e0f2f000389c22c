"""The convenience base class of loss terms; ``layerscope.protocols.LossTerm`` says what a term must have."""

from __future__ import annotations

from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.losses.choices import check_not_negative
from layerscope.losses.inputs import LossInputs


class LossTerm(nn.Module):
    """A named, weighted part of the loss.

    Args:
        name: under which the unweighted value is logged; unique within a sum.
        weight: factor in the sum, at least 0.

    Attributes:
        needs_noisy_recon: the term reads ``LossInputs.noisy_recon``.
        needs_labels: the term reads ``LossInputs.target`` and ``known``.
    """

    needs_noisy_recon: bool = False
    needs_labels: bool = False

    def __init__(self, name: str, weight: float = 1.0) -> None:
        super().__init__()
        if not name:
            raise ConfigurationError(f"The loss term {type(self).__name__} has an empty name: its value is logged so.")
        check_not_negative(f"the loss term {name}", "weight", weight)
        self.name = name
        self.weight = weight

    def current_weight(self, batches: int) -> float:
        """The factor in the sum after so many training batches; ``weight`` unless a term warms up."""
        return self.weight

    def forward(self, inputs: LossInputs) -> Tensor:
        """The unweighted value, a scalar."""
        raise NotImplementedError
