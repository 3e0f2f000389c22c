"""From the moments of a latent space to the factors that diffusion models scale it with, and how far both drifted."""

from __future__ import annotations

import math
from dataclasses import dataclass

from layerscope.errors import ConfigurationError, NumericalError


@dataclass(frozen=True)
class LatentMoments:
    """Mean and standard deviation of raw latents over a number of images.

    images: how many images were encoded.
    mean, std: one figure a channel over images and positions, of latents drawn from the posterior, as diffusion models
        are trained on them. By the law of total variance std² = Var(posterior mean) + E(posterior std²): no noise is
        drawn, and a channel that the KL term silenced (mean 0, posterior std 1) has std 1 and is not blown up.
    posterior_std: root mean square of the posterior's own standard deviation a channel; 0 for a deterministic encoder.
    """

    images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    posterior_std: tuple[float, ...]

    @property
    def overall_mean(self) -> float:
        """Over all channels."""
        return sum(self.mean) / len(self.mean)

    @property
    def overall_std(self) -> float:
        """Over all channels, around ``overall_mean``."""
        squares = sum(mean**2 + std**2 for mean, std in zip(self.mean, self.std)) / len(self.mean)
        return math.sqrt(max(squares - self.overall_mean**2, 0.0))


def scaling_entries(moments: LatentMoments) -> dict[str, float | list[float]]:
    """The entries of a diffusers config that bring these latents to mean 0 and standard deviation 1.

    diffusers' pipelines read them in three ways, and each gets what it needs:

    - Stable Diffusion: z · scaling_factor. ``scaling_factor`` = 1 / (standard deviation over all channels), the
      convention of latent diffusion (Rombach et al. 2022, appendix G): standard deviation 1 overall.
    - SD3, Flux: (z − shift_factor) · scaling_factor. ``shift_factor`` = mean over all channels: mean 0 and standard
      deviation 1 overall.
    - SDXL, and ``DiffusersAutoencoder.scale``: (z − latents_mean) · scaling_factor / latents_std. Here the factor
      counts too, so ``latents_std`` = std · scaling_factor, the standard deviation of a channel in units of the overall
      one: mean 0 and standard deviation 1 in every channel.

    A pipeline that divides by ``latents_std`` alone (GLM-Image's) would be off by the constant ``scaling_factor``.
    A channel that never varies keeps its scale (``latents_std`` 1).

    >>> scaling_entries(LatentMoments(8, (1.0, 3.0), (2.0, 2.0), (0.0, 0.0)))["shift_factor"]
    2.0

    Raises:
        NumericalError: a moment is not finite, or no channel varies.
    """
    overall = moments.overall_std
    if not all(map(math.isfinite, (*moments.mean, *moments.std))) or overall <= 0:
        raise NumericalError(
            f"The latents of {moments.images} images have mean {_listed(moments.mean)} and standard deviation "
            f"{_listed(moments.std)} per channel, from which no scaling factor follows. The encoder is broken or the "
            "images are all one; export another checkpoint, or give other images."
        )
    factor = 1 / overall
    return {
        "scaling_factor": factor,
        "shift_factor": moments.overall_mean,
        "latents_mean": list(moments.mean),
        "latents_std": [std * factor if std > 0 else 1.0 for std in moments.std],
    }


@dataclass(frozen=True)
class LatentDrift:
    """How a latent space moved in training, measured on the same images before and after.

    mean_shift: (mean after − mean before) / std before, per channel.
    std_ratio: std after / std before, per channel.
    scaling_factor_before, scaling_factor_after: 1 / overall std, both measured.
    """

    mean_shift: tuple[float, ...]
    std_ratio: tuple[float, ...]
    scaling_factor_before: float
    scaling_factor_after: float


def drift(before: LatentMoments, after: LatentMoments) -> LatentDrift:
    """What changed from ``before`` to ``after``; a channel that did not vary before has infinite figures.

    Raises:
        ConfigurationError: the two have different numbers of channels or images.
        NumericalError: either has moments from which no scaling factor follows.
    """
    if (len(before.mean), before.images) != (len(after.mean), after.images):
        raise ConfigurationError(
            f"The starting autoencoder has {len(before.mean)} latent channels, measured on {before.images} images, and "
            f"the trained one {len(after.mean)} on {after.images}. A drift can only be told for equal channels on the "
            "same images; leave the starting autoencoder out."
        )
    factors = [float(scaling_entries(moments)["scaling_factor"]) for moments in (before, after)]  # type: ignore[arg-type]
    return LatentDrift(
        mean_shift=tuple(_ratio(b - a, std) for a, b, std in zip(before.mean, after.mean, before.std)),
        std_ratio=tuple(_ratio(b, a) for a, b in zip(before.std, after.std)),
        scaling_factor_before=factors[0],
        scaling_factor_after=factors[1],
    )


def _ratio(change: float, unit: float) -> float:
    return change / unit if unit > 0 else math.copysign(math.inf, change)


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
