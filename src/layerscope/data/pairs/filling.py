"""Making the image without the lesion: the mask is filled in from what surrounds it."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from layerscope.data.pairs.masks import Mask
from layerscope.errors import ConfigurationError, DataError

Fill = Literal["mean", "blur", "telea"]

# Pixels around a pixel that Telea's method averages: its example value, and what OpenCV's samples use.
TELEA_RADIUS = 3
# A Gaussian is cut off where it has fallen to exp(−8).
_REACH = 4.0

Pixels = NDArray[np.float32]


def check_fill(fill: Fill) -> None:
    """Raises ConfigurationError where there is no such method, or OpenCV is not installed for it."""
    if fill not in get_args(Fill):
        raise ConfigurationError(f"data.init_args.fill is {fill!r}: expected {', '.join(get_args(Fill))}.")
    if fill == "telea":
        _opencv()


def fill_in(pixels: Pixels, mask: Mask, fill: Fill) -> Pixels:
    """A copy of (H, W, 3) in [0, 1] whose pixels inside ``mask`` (H, W) are made of those outside, which stay as is.

    mean: the mean of each channel over all pixels outside.

    blur: the Gaussian average of the pixels outside (normalised convolution: Knutsson and Westin, 1993). Each connected
    region of the mask has the σ of its own depth, the largest distance of a pixel in it to the nearest outside, so
    that the deepest pixel still sees the surround and a small lesion beside a large one is not blurred more than it
    needs.

    telea: fast marching (Telea, 2004) as OpenCV implements it, radius 3. Pixels on the 256 levels of an 8-bit file are
    filled in 8 bits, all others in 16. OpenCV adds a term of up to ±1.4 levels along the gradient whatever the depth,
    so 8-bit fillings are rougher than 16-bit ones.

    Raises:
        DataError: the mask leaves no pixel outside.
    """
    if not mask.any():
        return pixels.copy()
    if mask.all():
        raise DataError("the mask covers the whole image, so there is nothing to fill it in from")
    match fill:
        case "mean":
            filling = np.broadcast_to(pixels[~mask].mean(axis=0, dtype=np.float64), pixels.shape)
        case "blur":
            filling = _surround_average(pixels, mask)
        case "telea":
            filling = _telea(pixels, mask)
        case _:
            raise ConfigurationError(f"There is no filling {fill!r}: expected {', '.join(get_args(Fill))}.")
    return np.where(mask[..., None], filling, pixels).astype(np.float32)


def _surround_average(pixels: Pixels, mask: Mask) -> NDArray[np.float64]:
    """(H, W, 3), right inside the mask only.

    A Gaussian over a hundred pixels is two small matrices, exact and faster than a sliding one: each region of the mask
    is computed from the rectangle that it sees, in products of (rows inside × rows seen) with the pixels.
    """
    filling = np.zeros(pixels.shape)
    depths = _depths(mask)
    regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    for number, box in enumerate(ndimage.find_objects(regions), start=1):
        sigma = float(depths[box][regions[box] == number].max())
        seen = tuple(
            slice(max(0, side.start - int(_REACH * sigma) - 1), min(length, side.stop + int(_REACH * sigma) + 1))
            for side, length in zip(box, mask.shape)
        )
        rows, columns = (_gaussian(inside, around, sigma) for inside, around in zip(box, seen))
        outside = (~mask[seen]).astype(np.float64)
        weight = rows @ outside @ columns.T
        # Where two regions share a rectangle, the other one's pixels stay the other one's.
        own = regions[box] == number
        for channel in range(3):
            total = rows @ (pixels[seen][..., channel] * outside) @ columns.T
            filling[box][own, channel] = (total[own] / weight[own]).clip(0, 1)
    return filling


def _depths(mask: Mask) -> NDArray[np.float64]:
    """(H, W): the distance of each pixel in the mask to the nearest one outside.

    Only the rectangle around the mask, and one pixel more, is looked at: whatever lies beyond is farther away.
    """
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
    depths = np.zeros(mask.shape)
    depths[box] = ndimage.distance_transform_edt(mask[box])
    return depths


def _gaussian(inside: slice, around: slice, sigma: float) -> NDArray[np.float64]:
    """(pixels inside, pixels around): the weight of each pixel around for each pixel inside, along one side."""
    distance = np.arange(inside.start, inside.stop)[:, None] - np.arange(around.start, around.stop)
    weight: NDArray[np.float64] = np.exp(-0.5 * (distance / sigma) ** 2)
    return weight


def _telea(pixels: Pixels, mask: Mask) -> Pixels:
    cv2 = _opencv()
    levels = np.rint(pixels * 255)
    in_8_bits = np.array_equal(levels.astype(np.float32) / np.float32(255), pixels)
    depth, white = (np.uint8, 255) if in_8_bits else (np.uint16, 65535)
    stored = np.rint(pixels * np.float32(white)).astype(depth)
    # In OpenCV 16-bit images have one channel here.
    filled = [
        cv2.inpaint(np.ascontiguousarray(stored[..., channel]), mask.astype(np.uint8), TELEA_RADIUS, cv2.INPAINT_TELEA)
        for channel in range(3)
    ]
    return np.stack(filled, axis=2).astype(np.float32) / np.float32(white)


def _opencv() -> Any:
    """OpenCV, imported when it is needed: it is optional."""
    try:
        import cv2
    except ImportError as error:
        raise ConfigurationError(
            f"fill: telea is OpenCV's inpainting, and OpenCV cannot be imported ({error}). Run "
            "`pip install layerscope[inpaint]`, or set data.init_args.fill to blur or mean."
        ) from error
    return cv2
