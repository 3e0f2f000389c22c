"""The units in which latent noise is added, and the linear estimate of what the noise left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layerscope.data.hashing import tensors_hash
from layerscope.data.images_to_measure import images_to_measure
from layerscope.errors import ConfigurationError, DataError, NumericalError
from layerscope.functional.noise import (
    BetaSchedule,
    DDPMSchedule,
    FlowMatchSchedule,
    NoiseSchedule,
    TableSchedule,
    add_noise,
    sample_noise,
)
from layerscope.metrics.latents import LatentStatistics
from layerscope.protocols import Autoencoder, Denoiser, Posterior

# From this log-SNR down (SDXL's t = 150) the draw is most of the variance of a sample's score.
_MANY_DRAWS_BELOW_LOG_SNR = 2.96


@dataclass
class NoiseProcess:
    """How noise is added to a latent.

    Args:
        scheduler: ``ddpm`` (SDXL's and Stable Diffusion's training schedule), ``flow_match`` (SD3, Flux), ``custom``
            (from ``alpha_sigma`` or ``betas``), or a schedule of your own by class_path.
        seed: with sample id and draw it decides every sample's noise.
        alpha_sigma: with ``custom``: [alpha, sigma] pairs, step t being the t-th, counted from 1.
        betas: with ``custom``: the betas of a variance-preserving process, steps counted from 0.
        latent_normalisation: ``measured`` subtracts the mean and divides by the standard deviation per channel,
            measured on this data with this encoder; ``config`` uses the autoencoder's own scaling and shift factors.
        latent_statistics_images: number of images of the split in use to measure on, chosen by a hash of their ids.
        denoiser: ``none`` decodes the noisy latent, which tests the decoder's robustness; ``wiener`` decodes its
            linear estimate, which tests what information is left; or a module of your own by class_path, called
            as ``denoiser(z, alpha, sigma)``.
    """

    scheduler: Literal["ddpm", "flow_match", "custom"] | NoiseSchedule = "ddpm"
    seed: int = 123
    alpha_sigma: list[tuple[float, float]] | None = None
    betas: list[float] | None = None
    latent_normalisation: Literal["measured", "config"] = "measured"
    latent_statistics_images: int = 64
    denoiser: Literal["none", "wiener"] | nn.Module = "none"

    def schedule(self) -> NoiseSchedule:
        """The noise schedule that ``scheduler`` names."""
        given = [name for name in ("alpha_sigma", "betas") if getattr(self, name) is not None]
        if given and self.scheduler != "custom":
            raise ConfigurationError(f"noise.{given[0]} is read only with noise.scheduler: custom.")
        match self.scheduler:
            case "ddpm":
                return DDPMSchedule()
            case "flow_match":
                return FlowMatchSchedule()
            case "custom":
                if len(given) != 1:
                    raise ConfigurationError(
                        "noise.scheduler: custom needs either noise.alpha_sigma, a list of [alpha, sigma] pairs, or "
                        f"noise.betas, a list of betas; got {' and '.join(given) or 'neither'}."
                    )
                return BetaSchedule(self.betas) if self.betas is not None else TableSchedule(self.alpha_sigma or [])
            case NoiseSchedule():
                return self.scheduler
            case _:
                raise ConfigurationError(f"noise.scheduler is {self.scheduler!r}: expected ddpm, flow_match or custom.")

    def __post_init__(self) -> None:
        if self.latent_statistics_images < 1:
            raise ConfigurationError(
                f"noise.latent_statistics_images is {self.latent_statistics_images}: expected at least 1."
            )


@dataclass
class NoiseSettings(NoiseProcess):
    """The noise sweep of a diagnosis.

    Args (and those of ``NoiseProcess``):
        timesteps: steps of the schedule, or ``"log_snr(n)"`` for n steps equal in log-SNR; 0 is the clean
            reconstruction, which is always evaluated.
        draws: noise draws per step; ``auto`` takes 4 from log-SNR 2.96 down (SDXL's t = 150) and 1 above.
    """

    timesteps: list[int] | str = "log_snr(10)"
    draws: int | Literal["auto"] = "auto"

    def draws_at(self, log_snr: float) -> int:
        """Number of noise draws at a step."""
        if self.draws == "auto":
            return 4 if log_snr < _MANY_DRAWS_BELOW_LOG_SNR else 1
        if self.draws < 1:
            raise ConfigurationError(f"noise.draws is {self.draws}: expected at least 1, or auto.")
        return self.draws


class LatentSpace:
    """Raw latents to noise units and back.

    Attributes:
        variance: mean of the variance in noise units over the channels that vary; 1 when measured.
        mean, std: (C,) of the raw latent (``measured``) or of the autoencoder's scaled latent (``config``).
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        normalisation: Literal["measured", "config"],
        statistics: dict[str, Tensor],
    ) -> None:
        self._autoencoder = autoencoder
        self._measured = normalisation == "measured"
        self.mean, self.std = statistics["mean"], statistics["std"]
        live = self.std > 0
        self.dead_channels: list[int] = (~live).nonzero().flatten().tolist()
        # A channel that never varies carries nothing: it keeps its value and gets no noise when it is measured.
        self._divisor = torch.where(live, self.std, torch.ones_like(self.std))
        if not bool(torch.isfinite(self.mean).all() and torch.isfinite(self.std).all()):
            raise NumericalError(
                "The autoencoder's latents are NaN or infinite on the images measured for normalisation. Check its "
                "weights, or run in 32-bit precision (SDXL's VAE overflows in float16)."
            )
        power = statistics["power"]
        self._power = (power / self._divisor.square()[:, None, None] if self._measured else power).float()
        self._offset = (torch.zeros_like(self.mean) if self._measured else self.mean).float()[:, None, None]
        self.variance = float(self._power[live].mean()) if bool(live.any()) else 0.0

    def hash(self) -> str:
        """SHA-256 over what was measured."""
        return tensors_hash({"mean": self.mean, "std": self.std, "power": self._power})

    def effective_log_snr(self, log_snr: float) -> float:
        """The schedule's log-SNR corrected by the latent's real variance in noise units."""
        return log_snr + math.log(self.variance) if self.variance > 0 else -math.inf

    def normalise(self, z: Tensor) -> Tensor:
        """Raw latents (B, C, h, w) to noise units."""
        if not self._measured:
            return self._autoencoder.scale(z).float()
        mean, divisor = (s.float()[:, None, None] for s in (self.mean, self._divisor))
        return (z.float() - mean) / divisor

    def unnormalise(self, u: Tensor) -> Tensor:
        """The inverse of ``normalise``."""
        if not self._measured:
            return self._autoencoder.unscale(u)
        mean, std = (s.float()[:, None, None] for s in (self.mean, self.std))
        return u * std + mean

    def wiener(self, u: Tensor, alpha: float, sigma: float) -> Tensor:
        """The best linear shift-invariant estimate of the clean latent: (B, C, h, w) in noise units.

        Per channel and frequency, alpha·S / (alpha²·S + sigma²) with S the measured power spectrum (Wiener 1949).
        """
        gain = alpha * self._power / (alpha**2 * self._power + sigma**2)
        centred = torch.fft.fft2(u - alpha * self._offset, norm="ortho")
        return torch.fft.ifft2(centred * gain, norm="ortho").real + self._offset

    def denoiser(self, choice: object) -> Callable[[Tensor, float, float], Tensor]:
        """The built-in function (u, alpha, sigma) to u that stands between noise and decoder."""
        match choice:
            case "none":
                return lambda u, alpha, sigma: u
            case "wiener":
                return self.wiener
            case _:
                raise ConfigurationError(f"noise.denoiser is {choice!r}: expected none, wiener or a class_path.")


def chosen_latent(posterior: Posterior, ids: list[str], choice: Literal["mode", "sample"], seed: int) -> Tensor:
    """The mode of a posterior, or a draw from it per sample from (seed, id): raw latents (B, C, h, w).

    Raises:
        ConfigurationError: what an autoencoder's ``encode`` gave is no posterior.
    """
    if not isinstance(posterior, Posterior) or isinstance(posterior, Tensor):
        raise ConfigurationError(
            f"The autoencoder's encode gives a {type(posterior).__name__}; it must give a posterior with mean and std "
            "(layerscope.protocols.Posterior)."
        )
    if choice == "mode":
        return posterior.mean
    eps = sample_noise(ids, posterior.mean.shape[1:], seed, "posterior")
    return posterior.mean + posterior.std * eps.to(posterior.mean)


@torch.no_grad()
def measure_latent_space(
    module: LightningModule,
    autoencoder: Autoencoder,
    noise: NoiseProcess,
    loader: DataLoader[Any],
    posterior: Literal["mode", "sample"] = "mode",
) -> LatentSpace:
    """The units of ``noise`` by statistics of latents, as a bottleneck diagnosis measures them; equal on every process.

    Raises:
        DataError: the measured images are of several sizes.
        NumericalError: their latents are NaN or infinite.
    """
    statistics: LatentStatistics | None = None
    precision = module.trainer.precision_plugin
    for batch in images_to_measure(loader, noise.latent_statistics_images):
        image = precision.convert_input(batch["image"].to(module.device))
        # Lightning enters the precision's context for steps only.
        with precision.forward_context():
            z = chosen_latent(autoencoder.encode(image), batch["id"], posterior, noise.seed)
            if noise.latent_normalisation == "config":
                z = autoencoder.scale(z)
        if statistics is None:
            statistics = LatentStatistics(*z.shape[1:]).to(module.device)
            # Every process has the same figures: a sum over processes would count each image several times.
            statistics.sync_on_compute = False
        if z.shape[1:] != statistics.spectrum.shape:
            raise DataError(
                f"The image {batch['id'][0]!r} has another size than those before it; noise (a timestep other than 0) "
                "needs one size, since latents are measured per position. Set data.init_args.image_size or "
                "data.init_args.center_crop_size, or take the noise out."
            )
        statistics.update(z)
    assert statistics is not None
    return LatentSpace(autoencoder, noise.latent_normalisation, statistics.compute())


def noisy_latent(
    z: Tensor,
    ids: list[str],
    t: int,
    noise: NoiseProcess,
    space: LatentSpace,
    denoise: Denoiser | None = None,
    draw: int = 0,
) -> Tensor:
    """Raw latents (B, C, h, w) after the noise of step ``t`` and the denoiser.

    denoise: in the place of a built-in one that ``noise`` names.
    draw: number of each sample's draw of noise; 0 is the first.
    """
    clean = space.normalise(z)
    alpha, sigma = noise.schedule().alpha_sigma(t)
    eps = sample_noise(ids, clean.shape[1:], noise.seed, draw).to(clean)
    estimate = denoise or space.denoiser(noise.denoiser)
    return space.unnormalise(estimate(add_noise(clean, eps, alpha, sigma), alpha, sigma)).to(z.dtype)
