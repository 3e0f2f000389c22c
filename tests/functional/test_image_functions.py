"""Similarity, reconstruction error and controls against independent references."""

import io

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from skimage import data as photographs
from skimage.metrics import peak_signal_noise_ratio

from layerscope.errors import ConfigurationError
from layerscope.functional.controls import CONTROLS, controls_by_name, from_uint8, to_uint8
from layerscope.functional.reconstruction import kl_divergence, psnr
from layerscope.functional.similarity import channel_norm, pooled, position_cosine, vector_cosine


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    """A real fundus photograph, float (1, 3, 96, 96) in [-1, 1]."""
    picture = Image.fromarray(photographs.retina()).resize((96, 96))
    return from_uint8(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None])


def test_psnr_equals_scikit_image_per_image(photograph: torch.Tensor) -> None:
    noisy = (photograph + 0.1 * torch.randn_like(photograph)).clamp(-1, 1)
    expected = peak_signal_noise_ratio(photograph.numpy(), noisy.numpy(), data_range=2)
    assert float(psnr(noisy, photograph)) == pytest.approx(expected, abs=1e-4)


def test_kl_equals_diffusers() -> None:
    moments = torch.randn(3, 8, 4, 4)
    posterior = DiagonalGaussianDistribution(moments)
    torch.testing.assert_close(kl_divergence(posterior.mean, posterior.std), posterior.kl(), rtol=1e-4, atol=1e-4)


def test_cosines_against_numpy_and_on_zeros() -> None:
    a, b = torch.randn(2, 3, 5, 4, 4).unbind()
    dot = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    torch.testing.assert_close(position_cosine(a, b), dot.mean(dim=(1, 2)))
    means = [a.mean((2, 3)).numpy(), b.mean((2, 3)).numpy()]
    expected = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(*means)]
    np.testing.assert_allclose(vector_cosine(pooled(a), pooled(b)), expected, rtol=1e-5)
    torch.testing.assert_close(position_cosine(a, b, channel_norm(a)), position_cosine(a, b), rtol=0, atol=0)
    zero = torch.zeros(1, 4)
    assert float(vector_cosine(zero, zero)) == 1
    assert float(vector_cosine(zero, torch.ones(1, 4))) == 0


def test_jpeg_control_is_the_jpeg_of_pillow(photograph: torch.Tensor) -> None:
    stream = io.BytesIO()
    Image.fromarray(to_uint8(photograph)[0].permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=75)
    expected = np.asarray(Image.open(stream)).astype(int)
    actual = to_uint8(CONTROLS["jpeg_q75"](photograph))[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(actual - expected).mean() < 1.0


def test_controls_do_what_their_names_say(photograph: torch.Tensor) -> None:
    torch.testing.assert_close(CONTROLS["roundtrip8"](photograph), photograph, atol=1e-6, rtol=0)
    shifted = CONTROLS["shift1"](photograph)
    torch.testing.assert_close(shifted[..., 1:, 1:], photograph[..., :-1, :-1])
    blurred = CONTROLS["blur3"](photograph)
    torch.testing.assert_close(blurred[0, 0, 5, 5], photograph[0, 0, 4:7, 4:7].mean(), atol=1e-6, rtol=0)
    fidelity = [float(psnr(CONTROLS[name](photograph), photograph)) for name in ("down2", "down4", "down8")]
    assert fidelity == sorted(fidelity, reverse=True)
    assert all(CONTROLS[name](photograph).shape == photograph.shape for name in CONTROLS)


def test_unknown_control_lists_the_known() -> None:
    with pytest.raises(ConfigurationError, match="roundtrip8"):
        controls_by_name(["jpeg_q10"])
