"""From a picture of any size to the pixels that a model sees, as ``types.InputGeometry`` says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layerscope.data.images import Scalar, resize_pixels
from layerscope.data.pairs.masks import Mask, resize_mask
from layerscope.errors import DataError
from layerscope.types import InputGeometry

Size = tuple[int, int]
Shown = tuple[float, float, float, float]


def fit_geometry(
    pixels: NDArray[np.float32], geometry: InputGeometry, name: str = "The picture"
) -> tuple[NDArray[np.float32], Shown]:
    """(H, W, 3) in [0, 1] resized and cropped, and what of it is seen: left, top, right, bottom in its own pixels.

    Resizing is antialiased, in float32, and clamped to [0, 1]. ``name`` is what messages call the picture.

    Raises:
        DataError: the picture is smaller than ``geometry.smallest``, or once resized smaller than ``geometry.crop``.
    """
    size = _size(pixels)
    _check_smallest(size, geometry, name)
    resized = geometry.resized(size)
    top, left, height, width = _crop_box(size, resized, geometry, name)
    down, across = size[0] / resized[0], size[1] / resized[1]
    shown = (left * across, top * down, (left + width) * across, (top + height) * down)
    return _cut(resize_pixels(pixels, resized, geometry.resize_filter), top, left, height, width), shown


def fit_mask_geometry(mask: Mask, geometry: InputGeometry, name: str = "The mask") -> Mask:
    """A mask (H, W) placed as ``fit_geometry`` places its picture; see ``pairs.masks.resize_mask``.

    Resizing never empties a mask, cropping can. Raises DataError as ``fit_geometry`` does.
    """
    size = _size(mask)
    _check_smallest(size, geometry, name)
    resized = geometry.resized(size)
    return _cut(resize_mask(mask, resized), *_crop_box(size, resized, geometry, name))


def _size(pixels: NDArray[Scalar]) -> Size:
    height, width = pixels.shape[:2]
    return height, width


def _check_smallest(size: Size, geometry: InputGeometry, name: str) -> None:
    if size[0] < geometry.smallest[0] or size[1] < geometry.smallest[1]:
        raise DataError(
            f"{name} has {_told(size)} pixels, fewer along a side than a patch of the model, which has "
            f"{_told(geometry.smallest)}: there would be nothing to compare but interpolation. Use a larger picture, "
            "or a model with smaller patches."
        )


def _crop_box(size: Size, resized: Size, geometry: InputGeometry, name: str) -> tuple[int, int, int, int]:
    """Top, left, height and width of the central part that is kept."""
    height, width = geometry.crop or resized
    if height > resized[0] or width > resized[1]:
        became = "" if resized == size else f", resized to {_told(resized)},"
        raise DataError(
            f"{name} has {_told(size)} pixels{became} and the model's crop of {_told((height, width))} is larger than "
            "that. Choose a resize that is at least as large as the crop, a smaller crop, or a larger picture."
        )
    # Python's round gives the even number for a half.
    halved = round if geometry.crop_rounding == "even" else int
    return halved((resized[0] - height) / 2), halved((resized[1] - width) / 2), height, width


def _cut(pixels: NDArray[Scalar], top: int, left: int, height: int, width: int) -> NDArray[Scalar]:
    return pixels[top : top + height, left : left + width]


def _told(size: Size) -> str:
    """Width × height, as elsewhere in messages."""
    return f"{size[1]}×{size[0]}"
