"""Error by frequency band against NumPy's full transform, pure waves and Parseval's theorem."""

import numpy as np
import pytest
import torch

from layerscope.errors import ConfigurationError
from layerscope.functional.frequency import OCTAVES, Band, band_error

SHAPES = [(64, 64), (48, 80), (33, 50), (40, 21), (7, 5), (8, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_bands_sum_to_the_mean_squared_error_of_each_image(shape: tuple[int, int]) -> None:
    recon, image = torch.randn(2, 4, 3, *shape)
    mse = (recon - image).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(band_error(recon, image).sum(dim=1), mse)


@pytest.mark.parametrize("shape", SHAPES)
def test_bands_equal_the_full_transform_of_numpy(shape: tuple[int, int]) -> None:
    height, width = shape
    error = torch.randn(2, 3, height, width)
    power = np.abs(np.fft.fft2(error.double().numpy())) ** 2 / (height * width) ** 2
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    squared = y**2 + x**2
    found = band_error(error, torch.zeros_like(error))
    for k, band in enumerate(OCTAVES):
        low, high = band.cycles_per_pixel
        inside = (squared <= high**2 * (1 + 1e-12)) & ((squared > low**2 * (1 + 1e-12)) | (band.longest is None))
        expected = power[:, :, inside].sum(axis=2).mean(axis=1)
        np.testing.assert_allclose(found[:, k].numpy(), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("wavelength", [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96])
@pytest.mark.parametrize("along", [-1, -2])
def test_a_wave_is_in_its_band_along_either_side(wavelength: int, along: int) -> None:
    length = {-1: 192, -2: 96}[along]
    wave = torch.cos(2 * torch.pi * torch.arange(length) / wavelength)
    image = (wave[:, None] if along == -2 else wave[None, :]).expand(1, 3, 96, 192)
    found = band_error(image, torch.zeros_like(image))[0]
    names = [band.name for band in OCTAVES]
    expected = next(
        b.name for b in OCTAVES if b.shortest <= wavelength and (b.longest is None or wavelength < b.longest)
    )
    assert names[int(found.argmax())] == expected
    assert float(found.max()) == pytest.approx(1.0 if wavelength == 2 else 0.5, abs=1e-5)
    assert float(found.sum() - found.max()) < 1e-5


def test_a_checkerboard_is_above_nyquist_and_a_shade_in_the_last_band() -> None:
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    checkers = ((-1.0) ** (y + x)).expand(1, 3, 16, 16)
    torch.testing.assert_close(band_error(checkers, torch.zeros_like(checkers))[0, 0], torch.tensor(1.0))
    torch.testing.assert_close(band_error(checkers * 0 + 0.5, torch.zeros_like(checkers))[0, -1], torch.tensor(0.25))


def test_names_and_ranges() -> None:
    names = ["band_1_2", "band_2_4", "band_4_8", "band_8_16", "band_16_32", "band_32_64", "band_64_up"]
    assert [band.name for band in OCTAVES] == names
    assert OCTAVES[1].cycles_per_pixel == (0.25, 0.5)
    assert OCTAVES[-1].cycles_per_pixel == (0.0, 1 / 64)
    own = (Band(1, 10), Band(10, None))
    assert band_error(torch.randn(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), own).shape == (2, 2)


@pytest.mark.parametrize("bands", [OCTAVES[1:], OCTAVES[:-1], (Band(1, 2), Band(4, None))])
def test_bands_with_gaps_are_refused(bands: tuple[Band, ...]) -> None:
    with pytest.raises(ConfigurationError, match="gaps or overlap"):
        band_error(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), bands)
