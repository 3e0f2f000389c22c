"""A small Gaussian autoencoder with random weights that plugs in by class_path, and a callback that breaks off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn


@dataclass(frozen=True)
class Gaussian:
    mean: Tensor
    std: Tensor


class SmallAutoencoder(nn.Module):
    """One convolution each way, downsampling by 2 to 4 channels; ``encoded`` counts images over all instances.

    broken: images come back as NaN.
    """

    latent_channels = 4
    downsampling = 2
    encoded = 0

    def __init__(self, seed: int = 0, broken: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.Conv2d(3, 8, 4, stride=2, padding=1)
            self.up = nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)
        self.broken = broken

    def encode(self, x: Tensor) -> Gaussian:
        SmallAutoencoder.encoded += len(x)
        mean, logvar = self.down(x).chunk(2, dim=1)
        return Gaussian(mean, torch.exp(0.5 * logvar))

    def decode(self, z: Tensor) -> Tensor:
        return self.up(3 * z) * (torch.nan if self.broken else 1)

    def scale(self, z: Tensor) -> Tensor:
        return 2 * z

    def unscale(self, z: Tensor) -> Tensor:
        return z / 2


class BreakOff(Callback):
    """Raises after so many batches of predict; name it after the callbacks that shall have seen them."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.batches -= 1
        if self.batches == 0:
            raise RuntimeError("broken off")
