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
from layerscope.functional.similarity import channel_norm, pooled, position_cosines, vector_cosines


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
    shapes = [(3, 5, 4, 4), (3, 7, 2, 3)]
    a, b = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    b[1] = b[1].contiguous(memory_format=torch.channels_last)
    for k in range(2):
        dot = (a[k] * b[k]).sum(1) / (a[k].norm(dim=1) * b[k].norm(dim=1))
        torch.testing.assert_close(position_cosines(a, b)[:, k], dot.mean(dim=(1, 2)))
        means = [a[k].mean((2, 3)).numpy(), b[k].mean((2, 3)).numpy()]
        expected = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(*means)]
        actual = vector_cosines([pooled(one) for one in a], [pooled(one) for one in b])
        np.testing.assert_allclose(actual[:, k], expected, rtol=1e-5)
    norms = [channel_norm(one) for one in a]
    torch.testing.assert_close(position_cosines(a, b, norms), position_cosines(a, b), rtol=0, atol=0)
    zero, one = torch.zeros(1, 4), torch.ones(1, 4)
    assert vector_cosines([zero, zero], [zero, one]).tolist() == [[1, 0]]


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
