"""What the latent of an image costs: numbers, bits, and the time to make it and to read it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerscope.errors import ConfigurationError
from layerscope.functional.reconstruction import kl_divergence
from layerscope.metrics.stopwatch import Stopwatch
from layerscope.protocols import Autoencoder, DiscreteLatents, Posterior

STORED_BITS = 16
"""Bits of an element of a continuous latent: caches of latents hold them in half precision."""


class LatentCost:
    """Size, rate and times of an autoencoder's latents, collected along a diagnosis.

    Args:
        autoencoder: continuous unless it is a ``layerscope.protocols.DiscreteLatents`` with a codebook.
        device: on which it runs.

    Attributes:
        encoding, decoding: to be put around the calls of ``encode`` and ``decode`` for images without noise.

    Raises:
        ConfigurationError: a codebook without entries.
    """

    def __init__(self, autoencoder: Autoencoder, device: torch.device) -> None:
        self._codebook_size = autoencoder.codebook_size if isinstance(autoencoder, DiscreteLatents) else None
        if self._codebook_size is not None and self._codebook_size < 1:
            raise ConfigurationError(
                f"{type(autoencoder).__name__} says that its codebook_size is {self._codebook_size}: expected at least "
                "1, or None for a continuous latent (layerscope.protocols.DiscreteLatents)."
            )
        self.encoding, self.decoding = Stopwatch(device), Stopwatch(device)

    def rate(self, posterior: Posterior) -> Tensor:
        """KL(q(z|x) ‖ N(0, I)) of each image in bits, float32 (B,); infinite where the posterior's std is zero.

        The rate of a VAE (Alemi et al. 2018, "Fixing a Broken ELBO"): what a code with that prior spends on the latent.
        """
        return kl_divergence(posterior.mean, posterior.std) / math.log(2)

    def latent_bits(self, channels: int, height: int, width: int) -> float:
        """Bits that store the latent of one image: of a code at each position, or of a half-precision number each."""
        if self._codebook_size is not None:
            return height * width * math.log2(self._codebook_size)
        return float(channels * height * width * STORED_BITS)

    def record(self, latent_shape: tuple[int, ...], rates: np.ndarray) -> dict[str, Any]:
        """The figures of the whole run.

        latent_shape: (C, h, w) of one image. rates: (N,) bits of each. ``timed_images``: those behind either time.
        """
        channels, height, width = latent_shape
        return {
            "latent_elements": channels * height * width,
            "latent_bits": self.latent_bits(channels, height, width),
            "rate_bits": None if rate_obstacle(rates) else float(rates.mean(dtype=np.float64)),
            "encode_seconds": self.encoding.seconds_per_image,
            "decode_seconds": self.decoding.seconds_per_image,
            "timed_images": min(self.encoding.timed_images, self.decoding.timed_images),
        }


def rate_obstacle(rates: np.ndarray) -> str:
    """Why the mean rate of images (N,) is not defined; empty where it is."""
    if np.isposinf(rates).all():
        return "the posterior has no spread (a deterministic encoder), so its divergence from N(0, I) is infinite"
    without = int((~np.isfinite(rates)).sum())
    return f"it is not finite for {without} of {len(rates)} images" if without else ""
