"""The KL divergence of the posterior from the standard normal prior."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.reconstruction import kl_divergence
from layerscope.losses.choices import check_choice, check_not_negative
from layerscope.losses.inputs import LossInputs
from layerscope.losses.term import LossTerm

KLReduction = Literal["sum_per_image", "mean", "ldm"]
LOGVAR_LIMITS = (-30.0, 20.0)


class KL(LossTerm):
    """KL(N(μ, σ²) ‖ N(0, 1)) = 0.5·Σ(μ² + σ² − 1 − ln σ²) in nats, ln σ² clamped to [-30, 20] as diffusers does.

    "kl_weight 1e-6" means six different things; ``layerscope.losses.kl_units`` converts between them.

    Args:
        reduction: ``sum_per_image``: summed over the latent of an image, averaged over images (MONAI's unit beside a
            mean reconstruction loss, LDM's beside one that is summed per image). ``mean``: averaged over the elements
            of the latent. ``ldm``: ``sum_per_image`` divided by the 3·H·W elements of the image, so that beside a
            *mean* reconstruction loss the weight is the number that LDM and diffusers' script call kl_weight.
        warmup_batches: the weight rises linearly from 0 to ``weight`` over so many training batches; 0: no warm-up.
        name, weight: of the term.

    Raises:
        ConfigurationError: a deterministic encoder (std zero everywhere), whose divergence is infinite.
    """

    def __init__(
        self,
        reduction: KLReduction = "sum_per_image",
        warmup_batches: int = 0,
        name: str = "kl",
        weight: float = 1e-6,
    ) -> None:
        super().__init__(name, weight)
        check_choice(name, "reduction", reduction, get_args(KLReduction))
        check_not_negative(name, "warmup_batches", warmup_batches)
        self.reduction: KLReduction = reduction
        self.warmup_batches = warmup_batches

    def current_weight(self, batches: int) -> float:
        """weight · min(1, batches / warmup_batches)."""
        if batches >= self.warmup_batches:
            return self.weight
        return self.weight * batches / self.warmup_batches

    def forward(self, inputs: LossInputs) -> Tensor:
        # A posterior that is trained has a std with a gradient; only the others are looked at, which waits for a GPU.
        if not inputs.std.requires_grad and not bool(inputs.std.any()):
            raise ConfigurationError(
                f"{self.name} asks for the KL divergence of a posterior without spread, which is infinite: the "
                "autoencoder is deterministic. Remove the term."
            )
        low, high = (math.exp(0.5 * limit) for limit in LOGVAR_LIMITS)
        per_image = kl_divergence(inputs.mean, inputs.std.float().clamp(low, high))
        match self.reduction:
            case "sum_per_image":
                return per_image.mean()
            case "mean":
                return per_image.mean() / inputs.mean[0].numel()
            case "ldm":
                return per_image.mean() / inputs.image[0].numel()
            case _:
                raise ConfigurationError(f"reduction is {self.reduction!r}: expected sum_per_image, mean or ldm.")
