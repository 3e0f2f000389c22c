"""How near each reconstruction of a split comes to its original."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from layerscope.functional.reconstruction import SMALLEST_SSIM_SIDE, psnr, ssim
from layerscope.metrics.perceptual import ANOTHER_PROCESS, OptionalLpips

QUALITY = ("psnr_db", "ssim", "lpips")


class ImageQuality:
    """PSNR, SSIM and LPIPS of each image, where they can be measured.

    The protocol of a VAE's validation: the reconstruction clamped to [-1, 1] and not rounded to 8 bits, against the
    original as the run holds it, in float32 whatever autocast says. (``layerscope predict`` measures what a file holds,
    so it rounds first.)
    """

    def __init__(self) -> None:
        self._lpips = OptionalLpips()

    def __call__(self, recon: Tensor, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] twice to float32 (B, 3) in the order of ``QUALITY``; NaN where not measured."""
        with torch.autocast(image.device.type, enabled=False):
            recon, image = recon.float(), image.float()
            perceptual = self._lpips(recon, image)
            large = min(image.shape[-2:]) >= SMALLEST_SSIM_SIDE
            structural = ssim(recon, image) if large else torch.full_like(perceptual, torch.nan)
            return torch.stack([psnr(recon, image), structural, perceptual], dim=1)

    def obstacles(self, values: np.ndarray, size: Sequence[int]) -> dict[str, str]:
        """Those of ``QUALITY`` that a split has not, each with the reason.

        values: (N, 3) of all images, from all processes. size: (H, W) of the images.
        """
        found = {}
        if min(size) < SMALLEST_SSIM_SIDE:
            found["ssim"] = f"the images are smaller than {SMALLEST_SSIM_SIDE} pixels"
        if reason := self._lpips.obstacle_for(size):
            found["lpips"] = reason
        elif np.isnan(values[:, QUALITY.index("lpips")]).any():
            found["lpips"] = ANOTHER_PROCESS
        return found
