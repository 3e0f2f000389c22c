"""What an encoder says about the latent of an image: a Gaussian, or a single point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianPosterior:
    """An independent Gaussian at every latent position and channel.

    mean, std: (B, C, h, w) in raw latent units; std is not negative. The mode is the mean.
    """

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class PointPosterior:
    """The answer of a deterministic encoder.

    mean: (B, C, h, w) in raw latent units.
    """

    mean: Tensor

    @property
    def std(self) -> Tensor:
        """(B, C, h, w) of zeros."""
        return torch.zeros_like(self.mean)
