"""A reconstruction loss that finds its own scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.losses.inputs import LossInputs
from layerscope.losses.term import LossTerm
from layerscope.protocols import LossTerm as LossTermProtocol


class LearnedLogvar(LossTerm):
    """rec / exp(logvar) + logvar per element, logvar one learned number, as LDM's ``LPIPSWithDiscriminator``.

    At the optimum exp(logvar) is the mean rec, and every term of fixed weight beside this one is weighed against it.
    The value may be negative. In LDM, EQ-VAE and VA-VAE no optimizer holds the parameter; here ``parameters()`` of the
    ``WeightedSum`` holds it.

    Args:
        term: a loss term of reduction ``mean`` (one that sums would weigh its logvar wrongly); its own weight is
            applied before the division.
        initial_logvar: 0 makes the term start as the one it wraps.
        name, weight: of the term.
    """

    def __init__(self, term: nn.Module, initial_logvar: float = 0.0, name: str = "nll", weight: float = 1.0) -> None:
        super().__init__(name, weight)
        if not isinstance(term, LossTermProtocol):
            raise ConfigurationError(f"{name} wraps a loss term, and {type(term).__name__} is none.")
        if getattr(term, "reduction", "mean") != "mean":
            raise ConfigurationError(
                f"{name} wraps the loss term {term.name} of reduction {getattr(term, 'reduction', None)}: one log "
                "variance per element goes with reduction mean only."
            )
        self.term = term
        self.logvar = nn.Parameter(torch.tensor(float(initial_logvar)))
        self.needs_noisy_recon = term.needs_noisy_recon
        self.needs_labels = term.needs_labels

    def forward(self, inputs: LossInputs) -> Tensor:
        rec = self.term.current_weight(inputs.batches) * self.term(inputs).float()
        return rec * torch.exp(-self.logvar) + self.logvar
