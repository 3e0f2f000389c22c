"""How far a reconstruction is from its original, and how far a posterior is from the prior."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, higher is better; infinite for identical images.

    Both (B, C, H, W) in [-1, 1]; the peak-to-peak range is 2, so this equals the figure of 8-bit images up to
    rounding. Average the result over images: pooling squared errors first gives another, lower number.

    >>> a = torch.zeros(1, 3, 4, 4)
    >>> round(float(psnr(a + 0.2, a)), 2)
    20.0
    """
    mse = (reconstruction.float() - original.float()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(4 / mse)


SMALLEST_SSIM_SIDE = 6
"""Pixels: the window's half, 5, is mirrored at the border."""


def ssim(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Structural similarity of each image, (B, 3, H, W) twice to (B,), at most 1, higher is better.

    Wang et al. 2004: Gaussian window with a standard deviation of 1.5 and a side of 11 pixels, K1 = .01, K2 = .03,
    over all positions (mirrored at the border) and the three channels. The images in [-1, 1] are brought to [0, 1]
    first: SSIM compares mean intensities, so that on [-1, 1] it would be another number than on 8-bit images. Sides
    of ``SMALLEST_SSIM_SIDE`` pixels and more.

    >>> a = torch.zeros(1, 3, 16, 16)
    >>> ssim(a, a).tolist()
    [1.0]
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    first, second = (0.5 * (x.float() + 1) for x in (reconstruction, original))
    # It convolves, which autocast would do in half precision: variances are differences of nearly equal numbers.
    with torch.autocast(original.device.type, enabled=False):
        # The mean of the whole map: torchmetrics' own mean left the border out in some versions.
        _, full_map = structural_similarity_index_measure(
            first, second, data_range=1.0, reduction="none", return_full_image=True
        )
    return full_map.mean(dim=(1, 2, 3))


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(0, 1)) summed over the latent of each image, in nats: (B, C, h, w) twice to (B,).

    0.5·Σ(μ² + σ² − 1 − ln σ²), as in Kingma & Welling 2014 and diffusers' ``DiagonalGaussianDistribution.kl``.
    """
    return kl_per_channel(mean, std).sum(dim=1)


def kl_per_channel(mean: Tensor, std: Tensor) -> Tensor:
    """The same summed over the positions of each channel: (B, C), in nats; infinite where ``std`` is zero."""
    variance = std.float().square()
    return 0.5 * (mean.float().square() + variance - 1 - variance.log()).sum(dim=(2, 3))


DEAD_KL = 0.01
"""Nats per latent element, see ``dead_channels``."""
DEAD_VARIANCE_RATIO = 0.01
"""Variance of the posterior's mean over its own variance, see ``dead_channels``."""


def dead_channels(kl: Tensor, mean_variance: Tensor, posterior_variance: Tensor, mean_square: Tensor) -> Tensor:
    """Which latent channels carry nothing about the image, bool (C,).

    Dead by either of two signs:

    - the posterior is the prior: KL below ``DEAD_KL`` nats per latent element, the (ε, δ)-collapse of Lucas et al. 2019
      (arXiv 1911.02469) taken for the mean over images, with ε = .01;
    - the posterior is the same for every image and position, whatever its KL: the variance of its mean is at most
      ``DEAD_VARIANCE_RATIO`` of its own variance. That is the activity Cov(E[z|x]) > .01 of Burda et al. 2016
      (arXiv 1509.00519), whose latents have unit variance, in units of the posterior's noise, so that latents of
      another scale (small KL weights) are judged alike. Without noise: a mean that never changes.

    kl: (C,) nats per latent element. mean_variance: (C,) variance of the posterior's mean over images and positions.
    posterior_variance: (C,) mean of σ². mean_square: (C,) mean of μ², for what counts as no change in float32.
    """
    constant = mean_variance <= DEAD_VARIANCE_RATIO * posterior_variance + 1e-12 * mean_square
    return (kl < DEAD_KL) | constant
