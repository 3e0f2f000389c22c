"""Extensions as a user would write them in a module of their own."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from lightning.pytorch import Callback
from oracles import Deterministic
from torch import Tensor, nn

from layerscope.functional.noise import NoiseSchedule


class CosineSchedule(NoiseSchedule):
    """alpha = cos(πt/2T), sigma = sin(πt/2T) over T steps."""

    name = "cosine"
    convention = "variance preserving: alpha² + sigma² = 1"
    first_step = 1

    def __init__(self, length: int = 100) -> None:
        self.length = length

    @property
    def last_step(self) -> int:
        return self.length - 1

    def alpha_sigma(self, t: int) -> tuple[float, float]:
        angle = math.pi / 2 * t / self.length
        return math.cos(angle), math.sin(angle)


class PosteriorMean(nn.Module):
    """The best estimate of a unit Gaussian latent."""

    def forward(self, z: Tensor, alpha: float, sigma: float) -> Tensor:
        return alpha * z / (alpha**2 + sigma**2)


class CarelessDenoiser(nn.Module):
    """Would give random results in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, alpha: float, sigma: float) -> Tensor:
        assert not self.training
        return self.gain * self.dropout(z)


class ShrinkingAutoencoder(nn.Module):
    """Decodes to half the size."""

    latent_channels = 3
    downsampling = 1

    def encode(self, x: Tensor) -> Deterministic:
        return Deterministic(x)

    def decode(self, z: Tensor) -> Tensor:
        return z[..., ::2, ::2]

    def scale(self, z: Tensor) -> Tensor:
        return z

    def unscale(self, z: Tensor) -> Tensor:
        return z


class MeanColourTeacher(nn.Module):
    """Judges by nothing but mean colour; shows no features."""

    num_labels = 4

    def forward(self, image: Tensor) -> Tensor:
        mean = image.mean(dim=(1, 2, 3))
        return torch.stack([mean * (k + 1) for k in range(4)], dim=1)


class ViewTeacher(MeanColourTeacher):
    """Flattens without asking for the memory layout, as many hand-written networks do."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.view(len(image), 3, 1, -1))


class ChannelsLast(nn.Module):
    """Gives channels-last images and latents back, as diffusers' autoencoders with attention do."""

    latent_channels = 3
    downsampling = 1

    def encode(self, x: Tensor) -> Deterministic:
        return Deterministic(x.view(len(x), -1).view_as(x).contiguous(memory_format=torch.channels_last))

    def decode(self, z: Tensor) -> Tensor:
        return z.contiguous(memory_format=torch.channels_last)

    def scale(self, z: Tensor) -> Tensor:
        return z

    def unscale(self, z: Tensor) -> Tensor:
        return z


class BatchCounter(Callback):
    """Writes how many batches it saw."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.seen = 0

    def on_test_batch_end(self, *args: object, **kwargs: object) -> None:
        self.seen += 1
        self.path.write_text(str(self.seen))
