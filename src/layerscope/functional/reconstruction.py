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


def ssim(recon: Tensor, image: Tensor) -> Tensor:
    """Structural similarity of each image, at most 1, higher is better (Wang et al. 2004).

    Both (B, C, H, W) in [-1, 1], sides of at least 11; the result is (B,). The paper's settings: Gaussian window of
    sigma 1.5 over 11 pixels, K1 = 0.01, K2 = 0.03; the mean over channels and over positions whose window lies in the
    image. Its luminance term depends on where black is, so images are moved to [0, 2] first.

    >>> a = torch.zeros(1, 3, 16, 16)
    >>> round(float(ssim(a, a)), 4)
    1.0
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    # It convolves, which autocast would do in half precision: variances are differences of nearly equal numbers.
    with torch.autocast(image.device.type, enabled=False):
        value = structural_similarity_index_measure(
            recon.float() + 1, image.float() + 1, reduction="none", data_range=2.0
        )
    assert isinstance(value, Tensor)  # a pair only where the full map is asked for
    return value.reshape(len(image))


def kl_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(0, 1)) summed over the latent of each image, in nats: (B, C, h, w) twice to (B,).

    0.5·Σ(μ² + σ² − 1 − ln σ²), as in Kingma & Welling 2014 and diffusers' ``DiagonalGaussianDistribution.kl``.
    """
    variance = std.float().square()
    return 0.5 * (mean.float().square() + variance - 1 - variance.log()).sum(dim=(1, 2, 3))
