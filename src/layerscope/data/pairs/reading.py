"""Reading the files of a pair into tensors of one size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.data.images import Fit, fit_pixels, image_header, image_tensor, read_pixels
from layerscope.data.pairs.filling import Fill, fill_in
from layerscope.data.pairs.masks import Mask, check_same_size, fit_mask, read_masks
from layerscope.data.pairs.records import PairRecord
from layerscope.errors import ConfigurationError, DataError
from layerscope.types import ResizeFilter

# Channels of an image without colour differ by less than this, also after JPEG.
_GREY_TOLERANCE = 16 / 255

Pixels = NDArray[np.float32]


class PairImages(NamedTuple):
    """positive, negative: float32 (3, H, W) in [-1, 1]. mask: bool (H, W)."""

    positive: Tensor
    negative: Tensor
    mask: Tensor


class NothingToCompareError(Exception):
    """A pair whose images would be equal, which is no fault of a file; the text says why."""


@dataclass(frozen=True)
class PairReader:
    """How files become tensors: see ``images.fit_pixels``, and ``filling.fill_in`` for pairs without a negative."""

    image_size: int | None
    fit: Fit
    resize_filter: ResizeFilter
    fill: Fill | None = None

    def pair(self, record: PairRecord) -> PairImages:
        """Both images and the mask, all False where there is none.

        Raises:
            DataError: a file cannot be read, sizes in the files differ, or only one of the images has colours.
            NothingToCompareError: a mask that should be filled in is empty, or lies outside what ``fit: crop`` keeps.
        """
        positive = read_pixels(record.positive)
        mask = read_masks(record.masks, positive.shape[:2], record.positive)
        seen = fit_mask(mask, self.image_size, self.fit)
        if record.negative is None:
            if not mask.any():
                raise NothingToCompareError("empty mask")
            if not seen.any():
                raise NothingToCompareError("the mask lies outside the central square that fit: crop keeps")
            negative = self._filled(record.positive, positive, mask)
        else:
            negative = read_pixels(record.negative)
            check_same_size(
                record.positive, positive.shape[:2], record.negative, negative.shape[:2], "positive image", "negative"
            )
            _check_colours(record.positive, positive, record.negative, negative)
        return PairImages(self._tensor(positive), self._tensor(negative), torch.from_numpy(seen.copy()))

    def negative(self, record: PairRecord) -> Tensor:
        """The image without the finding: float32 (3, H, W) in [-1, 1]. Raises DataError as ``pair`` does."""
        if record.negative is not None:
            return self._tensor(read_pixels(record.negative))
        pixels = read_pixels(record.positive)
        mask = read_masks(record.masks, pixels.shape[:2], record.positive)
        return self._tensor(self._filled(record.positive, pixels, mask))

    def _filled(self, path: Path, pixels: Pixels, mask: Mask) -> Pixels:
        if self.fill is None:
            raise ConfigurationError(f"{path} has no negative, and no way to fill its mask in was set.")
        try:
            return fill_in(pixels, mask, self.fill)
        except DataError as error:
            raise DataError(f"{path} cannot be filled in: {error}. Correct the mask, or take the image out.") from error

    def _tensor(self, pixels: Pixels) -> Tensor:
        return image_tensor(fit_pixels(pixels, self.image_size, self.fit, self.resize_filter))


def _check_colours(positive_path: Path, positive: Pixels, negative_path: Path, negative: Pixels) -> None:
    """A grey copy of a coloured image differs from it everywhere, which would pass for a finding."""
    for grey_path, other_path, other in (
        (positive_path, negative_path, negative),
        (negative_path, positive_path, positive),
    ):
        if image_header(grey_path).is_grey and float(np.ptp(other, axis=2).max()) > _GREY_TOLERANCE:
            raise DataError(
                f"{grey_path} is a grey image and {other_path}, the other of the pair, has colours: they would differ "
                "everywhere. Save both grey or both in colour."
            )
