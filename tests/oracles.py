"""Autoencoders whose diagnosis is known beforehand; they plug in by class_path, as a user's own would."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerscope.data.phantom.exact import read_record


@dataclass(frozen=True)
class Deterministic:
    """A posterior without spread."""

    mean: Tensor

    @property
    def std(self) -> Tensor:
        return torch.zeros_like(self.mean)


class Identity(nn.Module):
    """Loses nothing: latents are the image."""

    latent_channels = 3
    downsampling = 1

    def encode(self, x: Tensor) -> Deterministic:
        return Deterministic(x)

    def decode(self, z: Tensor) -> Tensor:
        return z

    def scale(self, z: Tensor) -> Tensor:
        return z

    def unscale(self, z: Tensor) -> Tensor:
        return z


class BlockMean(Identity):
    """Every k × k block becomes its mean."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.downsampling = k

    def encode(self, x: Tensor) -> Deterministic:
        return Deterministic(F.avg_pool2d(x, self.downsampling))

    def decode(self, z: Tensor) -> Tensor:
        return F.interpolate(z, scale_factor=self.downsampling, mode="nearest")


class BlockCosines(Identity):
    """Keeps the ``channels`` lowest cosines of every 8 × 8 block of the grey image: more channels keep more."""

    downsampling = 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.latent_channels = channels
        place = torch.arange(8, dtype=torch.float32)
        cosines = torch.cos(torch.pi * (place + 0.5) * place[:, None] / 8)
        cosines = cosines / cosines.norm(dim=1, keepdim=True)
        lowest = sorted((u + v, u, v) for u in range(8) for v in range(8))[:channels]
        kernels = torch.stack([torch.outer(cosines[u], cosines[v]) for _, u, v in lowest])
        self.register_buffer("kernels", kernels[:, None])

    def encode(self, x: Tensor) -> Deterministic:
        return Deterministic(F.conv2d(x.mean(dim=1, keepdim=True), self.kernels, stride=8))

    def decode(self, z: Tensor) -> Tensor:
        return F.conv_transpose2d(z, self.kernels, stride=8).expand(-1, 3, -1, -1)


class EraseLabel(Identity):
    """Fills the place of one label's disk in an exact phantom with the mean of a ring around it; nothing else changes.

    root: directory of the exact phantom. label: name of the label.
    """

    def __init__(self, root: str, label: str) -> None:
        super().__init__()
        record = read_record(root)
        place = record.settings.labels.index(label)
        disk = torch.from_numpy(record.templates()[place] > 0)
        grown = F.max_pool2d(disk[None, None].float(), 5, stride=1, padding=2)[0, 0] > 0
        self.register_buffer("disk", disk)
        self.register_buffer("ring", grown & ~disk)

    def decode(self, z: Tensor) -> Tensor:
        background = z[..., self.ring].mean(dim=-1)[..., None, None]
        return torch.where(self.disk, background, z)


class Contrast(Identity):
    """Multiplies the image by a factor: every score shifts and no information is lost."""

    def __init__(self, factor: float = 0.7) -> None:
        super().__init__()
        self.factor = factor

    def decode(self, z: Tensor) -> Tensor:
        return z * self.factor


class LatentScale(nn.Module):
    """Another autoencoder with its latents multiplied by g: reconstructions are equal, noise hits harder or softer."""

    def __init__(self, g: float, inner: nn.Module) -> None:
        super().__init__()
        self.g = g
        self.inner = inner
        self.latent_channels = inner.latent_channels
        self.downsampling = inner.downsampling

    def encode(self, x: Tensor) -> Deterministic:
        return Deterministic(self.inner.encode(x).mean * self.g)

    def decode(self, z: Tensor) -> Tensor:
        return self.inner.decode(z / self.g)

    def scale(self, z: Tensor) -> Tensor:
        return z

    def unscale(self, z: Tensor) -> Tensor:
        return z
