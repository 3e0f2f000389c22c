"""Lesions filled in from their surround, against plain references."""

import sys

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from layerscope.data.pairs.filling import Fill, check_fill, fill_in
from layerscope.errors import ConfigurationError, DataError

FILLS: tuple[Fill, ...] = ("mean", "blur", "telea")


def image(levels: int, size: tuple[int, int] = (30, 34)) -> NDArray[np.float32]:
    stored = np.random.default_rng(0).integers(0, levels, (*size, 3))
    return stored.astype(np.float32) / np.float32(levels - 1)


def box(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (30, 34)) -> NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def gaussian_average(
    pixels: NDArray[np.float32], mask: NDArray[np.bool_], row: int, column: int, sigma: float
) -> NDArray[np.float64]:
    """The pixels outside the mask, one after the other."""
    total, weights = np.zeros(3), 0.0
    for y, x in np.argwhere(~mask):
        weight = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
        total += weight * pixels[y, x]
        weights += weight
    return total / weights


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("levels", [256, 65536])
def test_the_outside_is_untouched_and_so_is_what_was_given(fill: Fill, levels: int) -> None:
    pixels = image(levels)
    before, mask = pixels.copy(), box((10, 8, 20, 18), (0, 0, 3, 2))
    filled = fill_in(pixels, mask, fill)
    assert filled.dtype == np.float32
    assert np.array_equal(filled[~mask], pixels[~mask])
    assert not np.array_equal(filled[mask], pixels[mask])
    assert np.array_equal(pixels, before)
    # What the lesion looked like does not matter.
    pixels[mask] = 1 - pixels[mask]
    if levels == 256:
        pixels[mask] = 0
    assert np.array_equal(fill_in(pixels, mask, fill), filled)


def test_mean_is_that_of_all_pixels_outside() -> None:
    pixels, mask = image(256), box((10, 8, 20, 18))
    filled = fill_in(pixels, mask, "mean")
    for channel in range(3):
        expected = np.mean(pixels[..., channel].astype(np.float64)[~mask])
        np.testing.assert_allclose(filled[mask][:, channel], expected, rtol=1e-6)


def test_blur_is_the_gaussian_average_of_the_surround() -> None:
    """A square of 7 pixels is 4 deep, so the Gaussian reaches over the whole of this image."""
    pixels, mask = image(256), box((14, 12, 21, 19))
    filled = fill_in(pixels, mask, "blur")
    for row, column in np.argwhere(mask):
        np.testing.assert_allclose(
            filled[row, column], gaussian_average(pixels, mask, row, column, sigma=4), rtol=0, atol=2e-6
        )


def test_blur_fills_each_region_by_its_own_depth() -> None:
    """The small lesion is 1 deep, whatever lies beside it, and neither sees the other's pixels."""
    pixels, mask = image(256), box((14, 12, 21, 19), (23, 15, 24, 17))
    filled = fill_in(pixels, mask, "blur")
    for row in (15, 16):
        # Beyond four σ, where the reference goes on, weights have fallen to exp(−8).
        np.testing.assert_allclose(filled[row, 23], gaussian_average(pixels, mask, row, 23, sigma=1), rtol=0, atol=2e-3)
    np.testing.assert_allclose(filled[15, 17], gaussian_average(pixels, mask, 15, 17, sigma=4), rtol=0, atol=2e-6)


@pytest.mark.parametrize("lesion", [(10, 8, 20, 18), (0, 0, 12, 30), (33, 29, 34, 30)])
def test_blur_of_a_constant_surround_is_that_constant(lesion: tuple[int, int, int, int]) -> None:
    mask = box(lesion)
    pixels = np.full((30, 34, 3), np.float32(0.3))
    pixels[mask] = 0.9
    np.testing.assert_allclose(fill_in(pixels, mask, "blur"), 0.3, rtol=1e-6)


def test_telea_of_an_8_bit_image_is_opencvs() -> None:
    pixels, mask = image(256), box((10, 8, 20, 18), (0, 0, 3, 2))
    stored = np.rint(pixels * 255).astype(np.uint8)
    expected = cv2.inpaint(stored, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    assert np.array_equal(np.rint(fill_in(pixels, mask, "telea") * 255), expected)


def test_telea_of_a_16_bit_image_keeps_16_bits() -> None:
    mask = box((10, 8, 20, 18))
    ramp = (np.arange(34, dtype=np.float32) * 7 + 30000) / np.float32(65535)
    pixels = np.broadcast_to(ramp[None, :, None], (30, 34, 3)).copy()
    levels = fill_in(pixels, mask, "telea")[mask] * 65535
    # The ramp spans less than one of 256 levels.
    assert levels.min() >= 29990
    assert levels.max() <= 30250
    assert len(np.unique(np.rint(levels))) > 5


@pytest.mark.parametrize("fill", FILLS)
def test_without_a_lesion_nothing_changes_and_without_a_surround_nothing_can(fill: Fill) -> None:
    pixels = image(256)
    assert np.array_equal(fill_in(pixels, np.zeros((30, 34), bool), fill), pixels)
    with pytest.raises(DataError, match="covers the whole image"):
        fill_in(pixels, np.ones((30, 34), bool), fill)


def test_telea_without_opencv_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigurationError, match=r"pip install layerscope\[inpaint\]"):
        check_fill("telea")
    check_fill("blur")
