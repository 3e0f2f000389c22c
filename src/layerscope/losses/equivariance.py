"""Equivariance regularisation: turning or shrinking the latent is to turn or shrink the image."""

from __future__ import annotations

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.losses.choices import check_choice
from layerscope.losses.inputs import LossInputs
from layerscope.losses.pixels import PixelDistance, pixel_distance
from layerscope.losses.term import LossTerm


def shrink_and_turn(x: Tensor, size: tuple[int, int], quarter_turns: int) -> Tensor:
    """(B, C, H, W), resized to ``size`` (bilinear, antialiased, float32), then turned counterclockwise by 90° steps."""
    if tuple(x.shape[-2:]) != size:
        x = F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
    return torch.rot90(x, quarter_turns, dims=(2, 3))


class Equivariance(LossTerm):
    """d(D(τ∘z), τ∘x): EQ-VAE (Kouzelis et al. 2025, arXiv 2502.09509), with gradient to decoder and encoder.

    τ shrinks both sides by one factor s ~ U(min_scale, 1) and turns by 0, 90, 180 or 270 degrees; one τ per batch, from
    torch's own generator. The latent's new size is rounded to whole positions and the image follows it, so that both
    are the same τ. The paper's method replaces the reconstruction loss by this term; here it stands beside it, and the
    two weights say how much of each. It costs one more pass through the decoder.

    Args:
        min_scale: the smallest factor, above 0, at most 1; 1 only turns. 0.25 in the paper.
        turn: whether to turn.
        distance: ``l1``, ``mse`` or ``charbonnier``, the mean over elements.
        name, weight: of the term.

    Raises:
        ConfigurationError: the inputs have no latent or no decoder, or image and latent sizes do not divide.
    """

    def __init__(
        self,
        min_scale: float = 0.25,
        turn: bool = True,
        distance: PixelDistance = "l1",
        name: str = "equivariance",
        weight: float = 1.0,
    ) -> None:
        super().__init__(name, weight)
        if not 0 < min_scale <= 1:
            raise ConfigurationError(f"min_scale of {name} is {min_scale}: expected a factor above 0, at most 1.")
        check_choice(name, "distance", distance, get_args(PixelDistance))
        self.min_scale = min_scale
        self.turn = turn
        self.distance: PixelDistance = distance

    def forward(self, inputs: LossInputs) -> Tensor:
        if inputs.decode is None or inputs.latent is None:
            raise ConfigurationError(f"{self.name} decodes a changed latent and needs decode and latent in its inputs.")
        height, width = inputs.latent.shape[-2:]
        factor = inputs.image.shape[-2] // height
        if (height * factor, width * factor) != tuple(inputs.image.shape[-2:]):
            raise ConfigurationError(
                f"{self.name} needs images whose sides are one multiple of the latent's; given: images of "
                f"{tuple(inputs.image.shape[-2:])} and latents of {(height, width)}."
            )
        scale = self.min_scale + (1 - self.min_scale) * float(torch.rand(()))
        turns = int(torch.randint(4, ())) if self.turn else 0
        size = (max(1, round(scale * height)), max(1, round(scale * width)))
        image = shrink_and_turn(inputs.image, (size[0] * factor, size[1] * factor), turns)
        recon = inputs.decode(shrink_and_turn(inputs.latent, size, turns))
        return pixel_distance(recon, image, self.distance)
