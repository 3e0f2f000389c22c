"""Lesion masks: what counts as lesion in a file, and what is left of it after resizing."""

from pathlib import Path

import numpy as np
import pytest
from image_files import write_mask
from PIL import Image

from layerscope.data.pairs.masks import fit_mask, read_masks
from layerscope.errors import DataError

BOX = np.zeros((12, 12), bool)
BOX[2:5, 3:9] = True


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_a_mask_is_read_in_every_pixel_format(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"mask{suffix}"
    Image.fromarray(BOX.astype(np.uint8) * 255).convert(mode).save(path)
    assert np.array_equal(read_masks([path], (12, 12), Path("image.png")), BOX)


def test_alpha_faint_levels_and_16_bits_count(tmp_path: Path) -> None:
    opaque = Image.merge("RGBA", [Image.fromarray(BOX.astype(np.uint8) * 255)] * 3 + [Image.new("L", (12, 12), 255)])
    opaque.save(tmp_path / "rgba.png")
    clear = Image.merge("RGBA", [Image.new("L", (12, 12), 255)] * 3 + [Image.fromarray(BOX.astype(np.uint8) * 255)])
    clear.save(tmp_path / "clear.png")
    Image.fromarray(BOX.astype(np.uint8)).save(tmp_path / "ones.png")
    Image.fromarray(BOX.astype(np.uint16)).save(tmp_path / "wide.png")
    for name in ("rgba", "clear", "ones", "wide"):
        assert np.array_equal(read_masks([tmp_path / f"{name}.png"], (12, 12), Path("image.png")), BOX), name


def test_the_blur_of_jpeg_around_a_lesion_is_no_lesion(tmp_path: Path) -> None:
    disk = np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 13
    Image.fromarray(disk.astype(np.uint8) * 255).save(tmp_path / "mask.jpg", quality=60)
    stored = np.asarray(Image.open(tmp_path / "mask.jpg"))
    assert (stored[~disk] > 0).any()
    assert np.array_equal(read_masks([tmp_path / "mask.jpg"], (64, 64), Path("image.png")), disk)


def test_several_masks_are_united_and_each_must_have_the_size_of_the_image(tmp_path: Path) -> None:
    one, two = write_mask(tmp_path / "a.png", (0, 0, 2, 2)), write_mask(tmp_path / "b.png", (5, 5, 12, 6))
    mask = read_masks([one, two], (12, 12), Path("image.png"))
    assert mask.sum() == 4 + 7
    assert mask[:2, :2].all()
    assert mask[5, 5:].all()
    wide = write_mask(tmp_path / "c.png", size=(13, 12))
    with pytest.raises(DataError, match=r"image\.png has 12×12 pixels and its mask .*c\.png has 13×12"):
        read_masks([one, wide], (12, 12), Path("image.png"))


@pytest.mark.parametrize(("height", "width", "side"), [(24, 24, 8), (10, 14, 7), (9, 5, 4), (5, 5, 12), (6, 6, 6)])
def test_resizing_keeps_pixels_that_are_covered_by_half(height: int, width: int, side: int) -> None:
    """Against exact fractions: each pixel is split into side × side parts."""
    for seed in range(5):
        mask = np.random.default_rng(seed).random((height, width)) < 0.5
        parts = np.kron(mask.astype(np.int64), np.ones((side, side), np.int64))
        covered = parts.reshape(side, height, side, width).sum(axis=(1, 3))
        assert np.array_equal(fit_mask(mask, side, "stretch"), 2 * covered >= height * width)


def test_crop_keeps_the_central_square_and_none_keeps_all() -> None:
    mask = np.zeros((4, 8), bool)
    mask[:, 2:4] = True
    assert np.array_equal(fit_mask(mask, 2, "crop"), [[True, False], [True, False]])
    assert fit_mask(mask, None, "crop") is mask


@pytest.mark.parametrize("place", [(0, 0), (17, 50), (99, 99)])
def test_a_tiny_lesion_is_never_lost(place: tuple[int, int]) -> None:
    mask = np.zeros((100, 100), bool)
    mask[place] = True
    small = fit_mask(mask, 7, "stretch")
    assert np.argwhere(small).tolist() == [[int(place[0] * 7 / 100), int(place[1] * 7 / 100)]]
    assert not fit_mask(np.zeros((100, 100), bool), 7, "stretch").any()
