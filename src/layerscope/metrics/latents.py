"""Moments of a latent space, accumulated over images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class LatentStatistics(Metric):
    """Mean and standard deviation per channel, and the power spectrum, of latents (B, C, h, w).

    Sums run in float64 over all images and positions. ``compute`` returns

    - ``mean``, ``std``: (C,), the population figures over images and positions;
    - ``power``: (C, h, w), the mean squared magnitude of the orthonormal 2-D Fourier transform of the centred
      latent, so that its mean over frequencies is the variance of the channel.
    """

    full_state_update = False
    higher_is_better = None
    total: Tensor
    squares: Tensor
    spectrum: Tensor
    images: Tensor

    def __init__(self, channels: int, height: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(channels, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(channels, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("spectrum", torch.zeros(channels, height, width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, latent: Tensor) -> None:
        """Adds a batch of latents (B, C, h, w)."""
        z = latent.detach().double()
        self.total += z.sum(dim=(0, 2, 3))
        self.squares += z.square().sum(dim=(0, 2, 3))
        self.spectrum += torch.fft.fft2(z, norm="ortho").abs().square().sum(dim=0)
        self.images += len(z)

    def compute(self) -> dict[str, Tensor]:
        """The statistics so far, in float64."""
        _, height, width = self.spectrum.shape
        count = self.images * height * width
        mean = self.total / count
        variance = (self.squares / count - mean.square()).clamp_min(0)
        power = self.spectrum / self.images
        power[:, 0, 0] -= height * width * mean.square()  # centring changes the zero frequency only
        return {"mean": mean, "std": variance.sqrt(), "power": power.clamp_min(0)}
