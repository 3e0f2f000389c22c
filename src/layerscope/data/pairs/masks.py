"""Lesion masks: which pixels of a file are lesion, and how a mask is resized."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerscope.data.images import Fit, fit_region, image_header, read_pixels
from layerscope.errors import DataError

Mask = NDArray[np.bool_]

# Formats that blur: around a lesion that was white on black they leave greys that are not quite 0.
_LOSSY = ("JPEG", "WEBP")


def read_masks(paths: Sequence[Path], size: tuple[int, int], image: Path) -> Mask:
    """The lesions of ``image``, bool of ``size`` (H, W): the union of all files.

    In a file every pixel that is not black is lesion, so that 0/255, 0/1 and coloured label images are all read as
    meant; in JPEG and WebP, which blur, every pixel brighter than half in any channel. Transparent pixels are black.

    Raises:
        DataError: a file cannot be read, or has another size than the image.
    """
    mask = np.zeros(size, np.bool_)
    for path in paths:
        pixels = read_pixels(path)
        check_same_size(image, size, path, pixels.shape[:2], "image", "mask")
        threshold = 0.5 if image_header(path).format in _LOSSY else 0.0
        mask |= pixels.max(axis=2) > threshold
    return mask


def check_same_size(
    one: Path, one_size: tuple[int, ...], other: Path, other_size: tuple[int, ...], what: str, other_what: str
) -> None:
    """Raises DataError that names both sizes (H, W) where they differ."""
    if one_size != other_size:
        raise DataError(
            f"The {what} {one} has {one_size[1]}×{one_size[0]} pixels and its {other_what} {other} has "
            f"{other_size[1]}×{other_size[0]}. They are compared pixel by pixel: save both at one size, cut and scaled "
            "alike."
        )


def fit_mask(mask: Mask, image_size: int | None, fit: Fit) -> Mask:
    """A mask (H, W) resized as ``images.fit_pixels`` resizes its image: (image_size, image_size).

    See ``resize_mask``. Cropping can empty a mask.
    """
    if image_size is None:
        return mask
    return resize_mask(fit_region(mask, fit), (image_size, image_size))


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask (H, W) resized to ``size`` (H, W).

    A pixel is lesion where at least half of its area was. Where no pixel reaches that, as of a lesion much smaller than
    a pixel, those that are covered most are lesion: resizing never empties a mask.
    """
    if mask.shape == size:
        return mask
    if not mask.any():
        return np.zeros(size, np.bool_)
    height, width = size
    share = _area_share(_area_share(mask.astype(np.float64), height).T, width).T
    # The shares are sums of products of fractions: half a pixel may come out as 0.5 − 1e-16.
    return share >= min(0.5, float(share.max())) * (1 - 1e-9)


def _area_share(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The rows of (H, W) averaged into ``side`` rows by area: the integral over the rows, read between its nodes.

    Pillow's box filter takes or leaves whole pixels, which is no area where ``side`` does not divide H.
    """
    height = len(values)
    integral = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    edges = np.arange(side + 1) * (height / side)
    below = np.minimum(edges.astype(np.int64), height - 1)
    part = (edges - below)[:, None]
    at_edges = integral[below] * (1 - part) + integral[below + 1] * part
    share: NDArray[np.float64] = np.diff(at_edges, axis=0) * (side / height)
    return share
