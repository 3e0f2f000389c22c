"""Noise on latents while training, in units of the latent's own spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError
from layerscope.losses.choices import check_choice, check_positive

NoiseMode = Literal["additive", "interpolate"]


@dataclass
class LatentNoise:
    """z̃ of z = (B, C, h, w): σ ~ U(0, τ) per image, ε standard normal, s the std of each channel (no gradient).

    additive: z̃ = z + σ·s·ε. interpolate: z̃ = (1 − σ)·z + σ·s·ε, the straight path of rectified flow, τ at most 1.

    tau: the largest σ, in units of the latent's std.
    mode: as above.
    detach: True: z enters z̃ without gradient, so that only the decoder grows robust. False: the encoder learns from
        z̃ too; it cannot escape the noise by enlarging its latents, since s grows with them.
    """

    tau: float = 0.5
    mode: NoiseMode = "additive"
    detach: bool = False

    def __post_init__(self) -> None:
        check_positive("LatentNoise", "tau", self.tau)
        check_choice("LatentNoise", "mode", self.mode, get_args(NoiseMode))
        if self.mode == "interpolate" and self.tau > 1:
            raise ConfigurationError(f"tau of LatentNoise is {self.tau}: interpolating noise needs one of at most 1.")

    def apply(self, z: Tensor, std_per_channel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The noisy latent, in the type of z.

        Args:
            z: (B, C, h, w), raw latents.
            std_per_channel: (C,), as ``RunningLatentStd.std``.
            generator: draws on its own device; by default torch's own generator of z's device.
        """
        if z.ndim != 4 or std_per_channel.shape != (z.shape[1],):
            raise ConfigurationError(
                f"LatentNoise takes latents (B, C, h, w) and a std (C,); given: {tuple(z.shape)} and "
                f"{tuple(std_per_channel.shape)}."
            )
        device = z.device if generator is None else generator.device
        sigma = self.tau * torch.rand(len(z), 1, 1, 1, generator=generator, device=device).to(z.device)
        noise = torch.randn(z.shape, generator=generator, device=device).to(z.device)
        start = z.detach() if self.detach else z
        kept = 1 - sigma if self.mode == "interpolate" else 1.0
        noisy = kept * start.float() + sigma * std_per_channel.detach().float().view(1, -1, 1, 1) * noise
        return noisy.to(z.dtype)


class RunningLatentStd(nn.Module):
    """Mean and standard deviation of each latent channel, running over training batches, without gradient.

    The mixture (1 − m)·old + m·new of distributions, m = max(momentum, 1 / batches): a plain average over the first
    1 / momentum batches, exponential after. In a process group the sums of all ranks enter, so that ranks agree; every
    rank must call ``update`` equally often. The state is in buffers, and so in checkpoints.

    Args:
        channels: of the latent.
        momentum: share of a new batch, above 0, at most 1.

    Attributes:
        mean, variance: (C,), 0 and 1 before the first batch.
        batches: how many were seen.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int, momentum: float = 0.01) -> None:
        super().__init__()
        if channels < 1 or not 0 < momentum <= 1:
            raise ConfigurationError(
                f"RunningLatentStd has channels {channels} and momentum {momentum}: expected at least one channel and "
                "a share above 0, at most 1."
            )
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @property
    def std(self) -> Tensor:
        """(C,), the population figure; 1 before the first batch."""
        return self.variance.sqrt()

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Adds a batch of latents (B, C, h, w)."""
        if z.ndim != 4 or z.shape[1] != len(self.mean):
            raise ConfigurationError(
                f"RunningLatentStd follows {len(self.mean)} channels and was given latents {tuple(z.shape)}."
            )
        # Sums around the running mean, which all ranks share: float32 does not cancel there.
        centred = z.float() - self.mean.view(1, -1, 1, 1)
        count = centred.new_tensor([centred[:, 0].numel()])
        sums = torch.cat([centred.sum(dim=(0, 2, 3)), centred.square().sum(dim=(0, 2, 3)), count])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        total, squares = sums[:-1].div(sums[-1]).chunk(2)
        # A batch with NaN, which ends the training, leaves the state fit to be saved.
        good = torch.isfinite(sums).all()
        self.batches += good
        share = (1 / self.batches).clamp_min(self.momentum)
        variance = (squares - total.square()).clamp_min(0)
        mixed = (1 - share) * self.variance + share * variance + share * (1 - share) * total.square()
        self.variance.copy_(torch.where(good, mixed, self.variance))
        self.mean.copy_(torch.where(good, self.mean + share * total, self.mean))
