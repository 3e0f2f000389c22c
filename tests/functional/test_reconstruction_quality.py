"""SSIM, KL per channel and dead channels against independent references."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data as photographs
from skimage.metrics import structural_similarity
from skimage.transform import resize

from layerscope.functional.reconstruction import dead_channels, kl_divergence, kl_per_channel, ssim


def blurred(image: np.ndarray) -> np.ndarray:
    return gaussian_filter(image, 1.5, truncate=3.5, mode="mirror", axes=(0, 1))


def reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004 for (H, W, 3) in [0, 1]."""
    mx, my = blurred(x), blurred(y)
    vx, vy, cov = blurred(x * x) - mx * mx, blurred(y * y) - my * my, blurred(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def test_ssim_of_each_image_equals_the_formula_and_nearly_scikit_image() -> None:
    picture = resize(photographs.retina() / 255, (96, 72), anti_aliasing=True)
    rng = np.random.default_rng(0)
    noisy = np.stack([np.clip(picture + s * rng.normal(size=picture.shape), 0, 1) for s in (0.02, 0.1, 0.3)])
    original = np.stack([picture] * 3)
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).float() * 2 - 1 for x in (noisy, original))
    found = ssim(a, b)
    np.testing.assert_allclose(found.numpy(), [reference_ssim(x, y) for x, y in zip(noisy, original)], atol=1e-4)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    # Over the whole map, as here; its border is mirrored about the edge instead of the outermost pixel.
    theirs = [
        structural_similarity(x, y, channel_axis=2, full=True, **options)[1].mean() for x, y in zip(noisy, original)
    ]
    np.testing.assert_allclose(found.numpy(), theirs, atol=0.01)
    assert found.tolist() == sorted(found.tolist(), reverse=True)


def test_kl_per_channel_equals_torch_distributions_and_sums_to_the_kl() -> None:
    mean, std = torch.randn(3, 4, 5, 6), torch.rand(3, 4, 5, 6) + 0.1
    found = kl_per_channel(mean, std)
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(std))
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), prior).sum(dim=(2, 3))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(dim=1), kl_divergence(mean, std))
    assert kl_per_channel(mean, torch.zeros_like(std)).isposinf().all()


@pytest.mark.parametrize(
    ("mean_std", "posterior_std", "offset", "dead"),
    [
        (1.0, 0.5, 0.0, False),  # alive
        (0.05, 1.0, 0.0, True),  # the prior
        (0.0, 0.3, 4.0, True),  # far from the prior, but the same for every image
        (0.002, 0.3, 4.0, True),
        (1e-3, 1e-4, 0.0, False),  # another scale, but ten times its noise
        (1.0, 0.0, 0.0, False),  # a deterministic encoder
        (0.0, 0.0, 2.0, True),  # ... and a constant one
    ],
)
def test_dead_channels(mean_std: float, posterior_std: float, offset: float, dead: bool) -> None:
    mean = offset + mean_std * torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    std = torch.full_like(mean, posterior_std)
    kl = kl_per_channel(mean, std)[0] / 10000
    values = mean.double()
    variance, square = values.var(correction=0)[None], values.square().mean()[None]
    assert dead_channels(kl, variance, std.double().square().mean()[None], square).tolist() == [dead]
