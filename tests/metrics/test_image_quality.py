"""Figures of single reconstructions: which are measured, and why the others are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from layerscope.functional.reconstruction import psnr, ssim
from layerscope.metrics import perceptual
from layerscope.metrics.image_quality import ImageQuality


def distance(recon: Tensor, image: Tensor, backbone: str) -> Tensor:
    return (recon - image).abs().mean(dim=(1, 2, 3))


@pytest.fixture
def with_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "lpips_obstacle", lambda backbone: None)
    monkeypatch.setattr(perceptual, "lpips", distance)


def pictures(side: int) -> tuple[Tensor, Tensor]:
    image = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (image * 0.9).clamp(-1, 1), image


@pytest.mark.usefixtures("with_weights")
def test_all_three_in_float32_whatever_autocast_says() -> None:
    recon, image = pictures(32)
    quality = ImageQuality()
    with torch.autocast("cpu", torch.bfloat16):
        found = quality(recon.double(), image.double())
    assert found.dtype == torch.float32
    expected = torch.stack([psnr(recon, image), ssim(recon, image), distance(recon, image, "alex")], dim=1)
    torch.testing.assert_close(found, expected)
    assert quality.obstacles(found.numpy(), (32, 32)) == {}
    found[1, 2] = torch.nan  # a row of another process
    assert "another process" in quality.obstacles(found.numpy(), (32, 32))["lpips"]


@pytest.mark.usefixtures("with_weights")
@pytest.mark.parametrize(("side", "absent"), [(31, ["lpips"]), (6, ["lpips"]), (5, ["ssim", "lpips"])])
def test_images_that_are_too_small(side: int, absent: list[str]) -> None:
    quality = ImageQuality()
    found = quality(*pictures(side)).numpy()
    reasons = quality.obstacles(found, (side, side))
    assert list(reasons) == absent
    assert all("smaller than" in reason for reason in reasons.values())
    assert np.isnan(found).any(axis=0).tolist() == [False, "ssim" in absent, True]
