"""How pictures of any size become what a model sees, against transformers' and timm's own preprocessing."""

from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.data import chelsea
from transformers import CLIPImageProcessor, SiglipImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from layerscope.data.model_input import fit_geometry, fit_mask_geometry
from layerscope.errors import DataError
from layerscope.types import InputGeometry

# 300 rows, 451 columns; without black and white, where the others clip between the two directions of resizing.
CAT: NDArray[np.uint8] = chelsea() // 2 + 64

# The others round to one of 256 levels after each direction; the second one's bicubic weights, whose absolute values
# sum to at most 1.25, carry the first one's half level on.
ROUNDING = (0.5 + 0.5 * 1.25) / 255


def seen(photo: NDArray[np.uint8], geometry: InputGeometry) -> NDArray[np.float32]:
    return fit_geometry(photo.astype(np.float32) / np.float32(255), geometry)[0]


def processed(processor: Any, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 1], by a processor of transformers that is told not to normalise."""
    image = processor(Image.fromarray(photo), return_tensors="np", do_normalize=False)["pixel_values"][0]
    return np.asarray(image).transpose(1, 2, 0)


@pytest.mark.parametrize("photo", [CAT, CAT.swapaxes(0, 1).copy(), CAT[:, :448]], ids=["wide", "tall", "odd"])
@pytest.mark.parametrize("kind", [CLIPImageProcessor, CLIPImageProcessorPil])
@pytest.mark.parametrize("side", [112, 336])
def test_clip_sees_what_its_processor_makes(kind: type, photo: NDArray[np.uint8], side: int) -> None:
    processor = kind(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    pixels = seen(photo, InputGeometry(resize=side, crop=(side, side)))
    assert np.abs(pixels - processed(processor, photo)).max() <= ROUNDING


@pytest.mark.parametrize("resize_filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(112, 90), (350, 500)])
def test_resizing_is_the_antialiased_one_of_torch(resize_filter: Any, size: tuple[int, int]) -> None:
    photo = torch.from_numpy(chelsea() / 255).permute(2, 0, 1)[None]
    theirs = torch.nn.functional.interpolate(photo, size=size, mode=resize_filter, antialias=True)[0].clamp(0, 1)
    pixels = seen(chelsea(), InputGeometry(resize=size, resize_filter=resize_filter))
    assert np.abs(pixels - theirs.permute(1, 2, 0).numpy()).max() < 1e-6


def test_a_crop_smaller_than_the_resized_picture_on_both_sides() -> None:
    processor = CLIPImageProcessor(size={"shortest_edge": 127}, crop_size={"height": 112, "width": 96})
    pixels = seen(CAT, InputGeometry(resize=127, crop=(112, 96)))
    assert np.abs(pixels - processed(processor, CAT)).max() <= ROUNDING


@pytest.mark.parametrize("size", [(112, 112), (96, 160), (384, 384)])
def test_siglip_sees_what_its_processor_makes(size: tuple[int, int]) -> None:
    processor = SiglipImageProcessor(size={"height": size[0], "width": size[1]}, resample=Image.Resampling.BICUBIC)
    pixels = seen(CAT, InputGeometry(resize=size))
    assert np.abs(pixels - processed(processor, CAT)).max() <= ROUNDING


@pytest.mark.parametrize(("interpolation", "side"), [("bicubic", 112), ("bilinear", 112), ("bicubic", 111)])
def test_a_timm_model_sees_what_timm_makes(interpolation: Any, side: int) -> None:
    """With a side of 111, half of the 75 pixels that are cut off is rounded up."""
    transform = timm.data.create_transform(
        (3, side, side), interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=side / 124.5
    )
    theirs: torch.Tensor = transform(Image.fromarray(CAT))  # type: ignore[operator, assignment]
    pixels = seen(CAT, InputGeometry(124, (side, side), resize_filter=interpolation, crop_rounding="even"))
    assert np.abs(pixels - theirs.permute(1, 2, 0).numpy()).max() <= ROUNDING


def test_without_resizing_or_cropping_nothing_changes() -> None:
    pixels = CAT.astype(np.float32) / np.float32(255)
    same, shown = fit_geometry(pixels, InputGeometry())
    assert np.array_equal(same, pixels)
    assert shown == (0, 0, 451, 300)


@pytest.mark.parametrize(
    ("size", "geometry", "expected"),
    [
        ((300, 451), InputGeometry(resize=224), (224, 336)),  # 336.7
        ((451, 300), InputGeometry(resize=224), (336, 224)),
        ((300, 451), InputGeometry(resize=224, step=(16, 16)), (224, 336)),
        ((300, 451), InputGeometry(step=(14, 14)), (294, 448)),
        ((303, 461), InputGeometry(step=(14, 16)), (308, 464)),
        ((301, 456), InputGeometry(step=(14, 16)), (308, 464)),  # half a step up
        ((20, 3), InputGeometry(step=(14, 14)), (14, 14)),
        ((300, 451), InputGeometry(resize=(17, 33), step=(14, 14)), (17, 33)),
    ],
)
def test_sizes_are_kept_in_proportion_and_become_multiples_of_the_step(
    size: tuple[int, int], geometry: InputGeometry, expected: tuple[int, int]
) -> None:
    assert geometry.resized(size) == expected
    pixels, _ = fit_geometry(np.zeros((*size, 3), np.float32), geometry)
    assert pixels.shape == (*expected, 3)


def test_what_is_shown_is_told_in_pixels_of_the_picture() -> None:
    pixels = np.zeros((40, 100, 3), np.float32)
    geometry = InputGeometry(resize=20, crop=(10, 16), resize_filter="box")
    _, shown = fit_geometry(pixels, geometry)
    assert shown == (34, 10, 66, 30)
    marked = pixels.copy()
    left, top, right, bottom = map(int, shown)
    marked[top:bottom, left:right] = 1
    assert (fit_geometry(marked, geometry)[0] == 1).all()
    marked[...] = 1 - marked
    assert (fit_geometry(marked, geometry)[0] == 0).all()


def test_pixels_stay_between_black_and_white_where_a_filter_would_ring() -> None:
    edge = np.zeros((50, 70, 3), np.float32)
    edge[:, 35:] = 1
    pixels, _ = fit_geometry(edge, InputGeometry(resize=(90, 90), resize_filter="lanczos"))
    assert pixels.min() == 0
    assert pixels.max() == 1


@pytest.mark.parametrize(
    "geometry",
    [InputGeometry(resize=16, crop=(16, 16)), InputGeometry(resize=(8, 20)), InputGeometry(step=(7, 7))],
)
def test_a_mask_is_placed_as_its_picture_is(geometry: InputGeometry) -> None:
    """A mask's share of each pixel is what the box filter makes of it as a picture, where whole pixels are averaged."""
    mask = np.zeros((32, 80), bool)
    mask[9:21, 30:52] = True
    fitted = fit_mask_geometry(mask, geometry)
    rows, columns = geometry.resized((32, 80))
    share = np.kron(mask, np.ones((rows, columns))).reshape(rows, 32, columns, 80).mean(axis=(1, 3))
    expected = share >= 0.5 - 1e-9
    top, left = ((full - kept) // 2 for full, kept in zip(expected.shape, fitted.shape))
    assert np.array_equal(fitted, expected[top : top + fitted.shape[0], left : left + fitted.shape[1]])
    assert fitted.shape == fit_geometry(np.zeros((32, 80, 3), np.float32), geometry)[0].shape[:2]
    assert fitted.any()


def test_a_mask_is_not_emptied_by_resizing_but_can_be_by_cropping() -> None:
    mask = np.zeros((64, 128), bool)
    mask[30, 64] = mask[5, 3] = True
    small = fit_mask_geometry(mask, InputGeometry(resize=(4, 8)))
    assert small.sum() == 2
    mask[30, 64] = False
    assert not fit_mask_geometry(mask, InputGeometry(resize=4, crop=(4, 4))).any()


def test_a_picture_smaller_than_a_patch_is_refused() -> None:
    geometry = InputGeometry(resize=224, smallest=(14, 16))
    fit_geometry(np.zeros((14, 16, 3), np.float32), geometry)
    for size in ((13, 400), (400, 15)):
        with pytest.raises(DataError, match=rf"a\.png has {size[1]}×{size[0]} pixels.*16×14.*Use a larger picture"):
            fit_geometry(np.zeros((*size, 3), np.float32), geometry, "a.png")
        with pytest.raises(DataError, match="Use a larger picture"):
            fit_mask_geometry(np.zeros(size, bool), geometry)


def test_a_crop_larger_than_the_picture_is_refused_with_both_sizes() -> None:
    with pytest.raises(DataError, match=r"30×20 pixels, resized to 150×100, .* crop of 90×112 .* Choose a resize"):
        fit_geometry(np.zeros((20, 30, 3), np.float32), InputGeometry(resize=100, crop=(112, 90)))
    with pytest.raises(DataError, match=r"30×20 pixels and the model's crop of 40×20"):
        fit_mask_geometry(np.zeros((20, 30), bool), InputGeometry(crop=(20, 40)))
