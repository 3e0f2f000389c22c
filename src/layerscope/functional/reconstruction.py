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


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(0, 1)) summed over the latent of each image, in nats: (B, C, h, w) twice to (B,).

    0.5·Σ(μ² + σ² − 1 − ln σ²), as in Kingma & Welling 2014 and diffusers' ``DiagonalGaussianDistribution.kl``.
    """
    variance = std.float().square()
    return 0.5 * (mean.float().square() + variance - 1 - variance.log()).sum(dim=(1, 2, 3))
