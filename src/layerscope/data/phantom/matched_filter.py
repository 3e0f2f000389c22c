"""The ideal teacher of the exact phantom."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from layerscope.data.phantom.exact import read_record
from layerscope.errors import ConfigurationError


class MatchedFilterTeacher(nn.Module):
    """Correlates the image with each label's disk at its known place: no detector can be better on real images.

    The logit is the exact log-odds of the label on real images, d'·s − d'²/2 + ln(π/(1 − π)) with
    s = ⟨x, T⟩/(s_n·‖T‖) (standard normal without the disk, shifted by d' with it) and π the prevalence.

    Args:
        root: directory of the exact phantom; its ``phantom.json`` tells places, contrasts and noise.
    """

    def __init__(self, root: str) -> None:
        super().__init__()
        record = read_record(root)
        settings = record.settings
        shapes = record.templates().astype(np.float64)
        norms = np.sqrt(np.square(shapes).sum(axis=(1, 2), keepdims=True))
        self.size = settings.size
        self.d_prime = settings.d_prime
        self.prior = math.log(settings.prevalence / (1 - settings.prevalence))
        self.register_buffer("filters", torch.from_numpy((shapes / norms / settings.noise).astype(np.float32)))
        self.filters: Tensor

    @property
    def num_labels(self) -> int:
        """L, the number of disks."""
        return len(self.filters)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, size, size) in [-1, 1] to logits (B, L)."""
        if image.shape[-2:] != self.filters.shape[-2:]:
            raise ConfigurationError(
                f"The matched filter was made for images of {self.size}×{self.size} pixels and got "
                f"{image.shape[-1]}×{image.shape[-2]}. Leave image_size and center_crop_size out."
            )
        score = image.float().mean(dim=1).flatten(1) @ self.filters.flatten(1).T
        return self.d_prime * score - self.d_prime**2 / 2 + self.prior
