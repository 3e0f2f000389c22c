"""Reconstruction terms against plain PyTorch and torchmetrics."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loss_stand_ins import loss_inputs
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from layerscope.errors import ConfigurationError
from layerscope.losses import L1, MSE, SSIM, Charbonnier, NoisyReconstruction
from layerscope.losses.term import LossTerm


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (L1(), F.l1_loss),
        (MSE(), F.mse_loss),
        (L1("sum_per_image"), lambda a, b: F.l1_loss(a, b, reduction="sum") / len(a)),
        (MSE("sum_per_image"), lambda a, b: F.mse_loss(a, b, reduction="sum") / len(a)),
        (Charbonnier(0.05), lambda a, b: ((a - b) ** 2 + 0.05**2).sqrt().mean()),
        (Charbonnier(0.05, "sum_per_image"), lambda a, b: ((a - b) ** 2 + 0.05**2).sqrt().sum() / len(a)),
    ],
)
def test_equals_its_formula(term: LossTerm, expected: object) -> None:
    inputs = loss_inputs()
    assert callable(expected)
    torch.testing.assert_close(term(inputs), expected(inputs.recon, inputs.image))


@pytest.mark.parametrize("distance", ["l1", "mse", "charbonnier"])
def test_noisy_reconstruction_is_the_same_distance_of_the_noisy_image(distance: str) -> None:
    inputs = loss_inputs()
    plain = {"l1": L1(), "mse": MSE(), "charbonnier": Charbonnier()}[distance]
    noisy = NoisyReconstruction(distance)(inputs)  # type: ignore[arg-type]
    assert inputs.noisy_recon is not None
    inputs.recon = inputs.noisy_recon
    torch.testing.assert_close(noisy, plain(inputs))


def test_values_outside_the_range_keep_their_gradient() -> None:
    inputs = loss_inputs()
    inputs.recon = torch.full_like(inputs.image, 1.5).requires_grad_()
    for term in (L1(), SSIM()):
        inputs.recon.grad = None
        term(inputs).backward()
        assert inputs.recon.grad is not None
        assert inputs.recon.grad.abs().sum() > 0


def smooth(seed: int) -> Tensor:
    """Images with structure at the scale of SSIM's window, (2, 3, 32, 32) in [-1, 1]."""
    coarse = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=(32, 32), mode="bilinear")


def test_ssim_is_that_of_images_from_zero_to_one() -> None:
    inputs = loss_inputs(side=32)
    inputs.image = smooth(0)
    inputs.recon = (smooth(0) + 0.3 * smooth(1)).clamp(-1, 1)
    unit = [(one + 1) / 2 for one in (inputs.recon, inputs.image)]
    actual = SSIM()(inputs)
    torch.testing.assert_close(actual, 1 - structural_similarity_index_measure(unit[0], unit[1], data_range=1.0))
    # An implementation of other authors, which leaves the border out.
    other = [
        structural_similarity(
            a.numpy(), b.numpy(), data_range=1.0, channel_axis=0, gaussian_weights=True, use_sample_covariance=False
        )
        for a, b in zip(*unit)
    ]
    assert float(actual) == pytest.approx(1 - sum(other) / 2, abs=0.03)


def test_ssim_stays_in_float32_under_autocast() -> None:
    inputs = loss_inputs(side=32)
    expected = SSIM()(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(SSIM()(inputs), expected, rtol=0, atol=0)


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="windows of 11 pixels and was given images of 8 × 8"):
        SSIM()(loss_inputs(side=8))
    with pytest.raises(ConfigurationError, match="reduction of l1 is 'sum'"):
        L1("sum")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="distance of noisy_reconstruction is 'l2'"):
        NoisyReconstruction("l2")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="eps of charbonnier is 0"):
        Charbonnier(0)
