"""The loss of a training: the weighted sum of its terms."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, NumericalError, listed
from layerscope.losses.inputs import LossInputs
from layerscope.protocols import LossTerm

_REQUIRED = ("name", "weight", "needs_noisy_recon", "needs_labels", "current_weight")


class WeightedSum(nn.Module):
    """Σ over terms of current_weight(batches) · term(inputs).

    In evaluation mode, where training adds no latent noise, terms that need the noisy reconstruction are left out of
    the sum and of the values if there is none; in training its absence is an error.

    Parameters of terms (a learned log variance) are parameters of this module: give ``parameters()`` to an optimizer
    together with the autoencoder's.

    Args:
        terms: modules that satisfy ``layerscope.protocols.LossTerm``, with unique names.

    Attributes:
        terms: the terms, in order.

    Raises:
        ConfigurationError: no term, two of one name, or a module that is no loss term.
    """

    def __init__(self, terms: list[nn.Module]) -> None:
        super().__init__()
        if not terms:
            raise ConfigurationError("The loss has no terms: nothing would be trained. Give at least a reconstruction.")
        for term in terms:
            _check_term(term)
        names = [str(term.name) for term in terms]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigurationError(
                f"Several loss terms are named {', '.join(twice)}; their values would be logged over each other. Set "
                "name in the init_args of one of them."
            )
        self.terms = nn.ModuleList(terms)
        self._told: set[str] = set()

    @property
    def needs_noisy_recon(self) -> bool:
        """Whether any term reads the reconstruction of a noisy latent."""
        return any(bool(term.needs_noisy_recon) for term in self.terms)

    @property
    def needs_labels(self) -> bool:
        """Whether any term reads labels."""
        return any(bool(term.needs_labels) for term in self.terms)

    def forward(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the value of each term by name, unweighted and detached; all float32 scalars.

        Raises:
            ConfigurationError: a term gives no scalar, or lacks the labels or the noisy reconstruction it needs.
            NumericalError: a term is NaN or infinite; the message names it and the images.
        """
        values: dict[str, Tensor] = {}
        total = inputs.recon.new_zeros((), dtype=torch.float32)
        for term in self.terms:
            name = str(term.name)
            if term.needs_noisy_recon and inputs.noisy_recon is None:
                if not self.training:
                    continue
                raise ConfigurationError(
                    f"The loss term {name} needs the reconstruction of a noisy latent, and the task made none. Set the "
                    "task's latent noise (layerscope.losses.LatentNoise)."
                )
            if term.needs_labels and (inputs.target is None or inputs.known is None):
                raise ConfigurationError(
                    f"The loss term {name} needs labels, and the data has none. Train on a labelled set "
                    "(layerscope.data.multilabel.MultilabelImages), or remove the term."
                )
            value = term(inputs)
            if not isinstance(value, Tensor) or value.ndim != 0:
                found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ConfigurationError(f"The loss term {name} gave {found} instead of a scalar tensor.")
            self._warn_without_gradient(name, value, inputs)
            total = total + term.current_weight(inputs.batches) * value.float()  # type: ignore[operator]
            values[name] = value.detach().float()
        _check_finite(values, inputs)
        return total, values

    def _warn_without_gradient(self, name: str, value: Tensor, inputs: LossInputs) -> None:
        """Once per term: a perceptual loss under no_grad is logged and added, and trains nothing."""
        trains = self.training and torch.is_grad_enabled() and inputs.recon.requires_grad
        if trains and not value.requires_grad and name not in self._told:
            self._told.add(name)
            warnings.warn(
                f"The loss term {name} carries no gradient: it is added and logged, but trains nothing. That is right "
                "for the KL of a frozen encoder; elsewhere look for no_grad or detach in the term.",
                stacklevel=2,
            )


def _check_term(term: object) -> None:
    if isinstance(term, nn.Module) and isinstance(term, LossTerm):
        return
    lacks = [attribute for attribute in _REQUIRED if not hasattr(term, attribute)]
    what = f"lacks {', '.join(lacks)}" if lacks else "is no torch.nn.Module"
    raise ConfigurationError(
        f"{type(term).__name__} is no loss term (layerscope.protocols.LossTerm): it {what}. Deriving from "
        "layerscope.losses.LossTerm gives all but forward."
    )


def _check_finite(values: dict[str, Tensor], inputs: LossInputs) -> None:
    """One transfer from the device for all terms."""
    finite = torch.isfinite(torch.stack(list(values.values()))).tolist() if values else []
    broken = [f"{name} is {float(value)}" for (name, value), good in zip(values.items(), finite) if not good]
    if broken:
        raise NumericalError(
            f"A loss term is not finite after {inputs.batches} training batches: {'; '.join(broken)}. The images of "
            f"this batch: {listed(inputs.id)}. Lower the learning rate or the term's weight, or check these images."
        )
