"""Measuring the moments of an autoencoder's latents over images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from layerscope.errors import ConfigurationError, DataError, NumericalError
from layerscope.functional.latent_scaling import LatentMoments
from layerscope.metrics.latents import LatentStatistics
from layerscope.protocols import Autoencoder


@torch.no_grad()
def latent_statistics(autoencoder: nn.Module, images: Iterable[Tensor]) -> LatentMoments:
    """Mean and standard deviation per channel of the raw latents of ``images``, accumulated in float64.

    The autoencoder is in evaluation mode meanwhile. ``LatentMoments`` says which standard deviation is meant. Processes
    do not exchange anything: each measures the images it is given.

    Args:
        autoencoder: satisfies ``layerscope.protocols.Autoencoder``.
        images: batches (B, 3, H, W) in [-1, 1], all of one size; moved to the device of the autoencoder's weights.

    Raises:
        ConfigurationError: no ``Autoencoder``, or images whose sides do not divide by its downsampling.
        DataError: no images, or of different sizes.
        NumericalError: a latent is NaN or infinite; the message counts the images.
    """
    if not isinstance(autoencoder, Autoencoder):
        raise ConfigurationError(f"{type(autoencoder).__name__} is no layerscope.protocols.Autoencoder.")
    device = next(autoencoder.parameters()).device
    was_training = autoencoder.training
    autoencoder.eval()
    statistics: LatentStatistics | None = None
    variance = torch.zeros(autoencoder.latent_channels, dtype=torch.float64, device=device)
    try:
        for batch in images:
            posterior = autoencoder.encode(batch.to(device))
            mean, std = posterior.mean, posterior.std
            if statistics is None:
                # One process measures at the end of a training; waiting for the others would never end.
                statistics = LatentStatistics(*mean.shape[1:], sync_on_compute=False).to(device)
            seen = int(statistics.images)
            if mean.shape[1:] != statistics.spectrum.shape:
                raise DataError(
                    f"Image {seen + 1} gives a latent of {tuple(mean.shape[1:])}, those before it "
                    f"{tuple(statistics.spectrum.shape)}: statistics of latents need images of one size."
                )
            if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
                raise NumericalError(
                    f"A latent among images {seen + 1} to {seen + len(batch)} is NaN or infinite. The encoder is "
                    "broken, or overflows in its precision: use float32, or another checkpoint."
                )
            statistics.update(mean)
            variance += std.double().square().mean(dim=(2, 3)).sum(dim=0)
    finally:
        autoencoder.train(was_training)
    if statistics is None:
        raise DataError("There are no images to measure the latents on. Give at least one.")
    count = int(statistics.images)
    variance /= count
    moments = statistics.compute()
    total = (moments["std"].square() + variance).sqrt()
    return LatentMoments(
        images=count,
        mean=tuple(moments["mean"].tolist()),
        std=tuple(total.tolist()),
        posterior_std=tuple(variance.sqrt().tolist()),
    )
