"""Images through an autoencoder and back, with or without latent noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from layerscope.data.hashing import weights_hash
from layerscope.errors import ConfigurationError, NumericalError
from layerscope.functional.controls import from_uint8, to_uint8
from layerscope.functional.reconstruction import psnr, ssim
from layerscope.protocols import Autoencoder, Denoiser
from layerscope.tasks.diagnosis.latent_space import (
    LatentSpace,
    NoiseProcess,
    chosen_latent,
    measure_latent_space,
    noisy_latent,
)
from layerscope.types import Batch, ReconstructedBatch


class Reconstruction(LightningModule):
    """Reconstructs the images of ``predict``; ``layerscope.callbacks.reconstructed_files`` writes them.

    A reconstruction is what an 8-bit file holds of it: decoded, clamped to [-1, 1] and rounded to 256 levels. PSNR and
    SSIM compare that with the image as the datamodule gave it. Noise belongs to a sample, so batch size and processes
    do not change it, and a reconstruction at step t is the one that a bottleneck diagnosis with the same settings
    judges as its first draw.

    Args:
        autoencoder: a module that satisfies ``layerscope.protocols.Autoencoder``.
        posterior: ``mode`` encodes to the posterior's mode, ``sample`` draws from it (per sample, from the noise seed).
        timestep: step of the noise schedule whose noise is added to the latent; 0 adds none.
        noise: the noise. Above step 0 all images need one size. ``latent_normalisation: measured`` (the default,
            because factors of a configuration belong to one encoder) first measures the latents of
            ``latent_statistics_images`` images of the split.

    Attributes:
        stored: set by a callback that has some reconstructions already: id and (H, W) to uint8 (3, H, W), or None. A
            batch of which all are stored is not computed again.
    """

    autoencoder: Autoencoder

    def __init__(
        self,
        autoencoder: nn.Module,
        posterior: Literal["mode", "sample"] = "mode",
        timestep: int = 0,
        noise: NoiseProcess = NoiseProcess(),  # noqa: B008 — never changed
    ) -> None:
        super().__init__()
        if not isinstance(autoencoder, Autoencoder):
            raise ConfigurationError(
                f"{type(autoencoder).__name__} is no Autoencoder: it needs encode, decode, latent_channels, "
                "downsampling, scale, unscale."
            )
        if posterior not in ("mode", "sample"):
            raise ConfigurationError(f"posterior is {posterior!r}: expected mode or sample.")
        self.schedule = noise.schedule()
        if timestep != 0 and not self.schedule.first_step <= timestep <= self.schedule.last_step:
            raise ConfigurationError(
                f"timestep is {timestep}, but the {self.schedule.name} schedule has the steps "
                f"{self.schedule.first_step} to {self.schedule.last_step} (and 0 for no noise)."
            )
        self.autoencoder = cast(Any, autoencoder.requires_grad_(False).eval())
        self.posterior: Literal["mode", "sample"] = posterior
        self.timestep = timestep
        self.noise = noise
        # A submodule, so that it moves to the device.
        self.denoiser = noise.denoiser.requires_grad_(False).eval() if isinstance(noise.denoiser, nn.Module) else None
        self.stored: Callable[[str, tuple[int, int]], Tensor | None] | None = None
        self._space: LatentSpace | None = None

    def settings(self) -> dict[str, Any]:
        """What a reconstruction depends on besides the images; plain values."""
        autoencoder = cast(nn.Module, self.autoencoder)
        settings: dict[str, Any] = {
            "autoencoder": type(autoencoder).__name__,
            "autoencoder_weights": weights_hash(autoencoder),
            "posterior": self.posterior,
            "timestep": self.timestep,
        }
        if self.timestep or self.posterior == "sample":
            settings["noise_seed"] = self.noise.seed
        if not self.timestep:
            return settings
        alpha, sigma = self.schedule.alpha_sigma(self.timestep)
        choice = self.noise.denoiser
        return settings | {
            "schedule": self.schedule.name,
            "convention": self.schedule.convention,
            "alpha": alpha,
            "sigma": sigma,
            "latent_normalisation": self.noise.latent_normalisation,
            "latent_statistics_images": self.noise.latent_statistics_images,
            "denoiser": choice if isinstance(choice, str) else type(choice).__name__,
            "denoiser_weights": weights_hash(self.denoiser) if self.denoiser is not None else None,
        }

    def measured(self) -> dict[str, list[float]]:
        """Mean and standard deviation per channel of the latents that were measured; nothing at step 0."""
        return {} if self._space is None else {"mean": self._space.mean.tolist(), "std": self._space.std.tolist()}

    def on_predict_start(self) -> None:
        self._space = None
        if self.timestep == 0:
            return
        loader = self.trainer.predict_dataloaders
        if not isinstance(loader, DataLoader):
            raise ConfigurationError("Reconstruction needs one dataloader with a map-style dataset to measure latents.")
        self._space = measure_latent_space(self, self.autoencoder, self.noise, loader, self.posterior)

    def predict_step(self, batch: Batch, batch_idx: int) -> ReconstructedBatch:
        image, ids = batch["image"], batch["id"]
        size = (image.shape[-2], image.shape[-1])
        stored = [self.stored(name, size) if self.stored is not None else None for name in ids]
        # The whole batch, also where only one is missing: in another batch the arithmetic may round differently.
        if any(picture is None for picture in stored):
            pictures = reconstruct(
                self.autoencoder,
                image,
                ids,
                self.posterior,
                self.noise,
                self.timestep,
                self._space,
                self.denoiser,
            )
        else:
            pictures = torch.empty(image.shape, dtype=torch.uint8, device=image.device)
        for row, picture in enumerate(stored):
            if picture is not None:
                pictures[row] = picture.to(pictures)
        recon, original = from_uint8(pictures), image.float()
        return ReconstructedBatch(ids, batch["index"], original, recon, psnr(recon, original), ssim(recon, original))


def reconstruct(
    autoencoder: Autoencoder,
    image: Tensor,
    ids: list[str],
    posterior: Literal["mode", "sample"],
    noise: NoiseProcess,
    timestep: int = 0,
    space: LatentSpace | None = None,
    denoiser: Denoiser | None = None,
    draw: int = 0,
) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] as an 8-bit file holds their reconstructions: uint8, the same shape.

    space: units of the latent noise of ``timestep``, which is the number ``draw`` of each sample; without it no noise
        is added.

    Raises:
        ConfigurationError: the autoencoder gives images of another size.
        NumericalError: a reconstruction is NaN or infinite.
    """
    z = chosen_latent(autoencoder.encode(image), ids, posterior, noise.seed)
    if space is not None:
        z = noisy_latent(z, ids, timestep, noise, space, denoiser, draw)
    recon = autoencoder.decode(z)
    if recon.shape != image.shape:
        raise ConfigurationError(
            f"{type(autoencoder).__name__} decodes images of {tuple(image.shape[1:])} to "
            f"{tuple(recon.shape[1:])} (channels, height, width), which do not compare. Set "
            "data.init_args.image_size or data.init_args.center_crop_size to a multiple of its downsampling, "
            f"{autoencoder.downsampling}."
        )
    finite = torch.isfinite(recon).flatten(1).all(dim=1).tolist()
    if not all(finite):
        bad = [name for name, ok in zip(ids, finite) if not ok]
        raise NumericalError(
            f"The reconstruction of {len(bad)} images is NaN or infinite (first: {', '.join(bad[:5])}). Check the "
            "autoencoder's weights, or run in 32-bit precision (SDXL's VAE overflows in float16)."
        )
    return to_uint8(recon)
