"""One pair of images: the datamodule."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from layerscope.data.images import Fit
from layerscope.data.pairs.datamodule import PairDataModule
from layerscope.data.pairs.records import ONE_PAIR, PairRecord, PairRecords
from layerscope.data.records import check_id
from layerscope.errors import DataError
from layerscope.types import ResizeFilter


class ImagePair(PairDataModule):
    """One image with a finding and the same without; its id is the name of ``img1`` without the suffix.

    Args:
        img1: the positive, the image with the finding.
        img2: the negative, without it, of as many pixels.
        mask: image of the lesion mask, of as many pixels: see ``masks.read_masks`` for what counts as lesion.
        image_size: side in pixels of the square that images are resized to; None keeps their size.
        fit: stretch resizes the whole image, without keeping its proportions; crop its largest central square.
        resize_filter: antialiased filter of the resizing.
        noise_floor: same_image compares the negative with itself, at the run's precision; none compares nothing.
        size_multiple: the sides of an image must be multiples of this, the downsampling of the model.
    """

    def __init__(
        self,
        img1: str,
        img2: str,
        mask: str | None = None,
        image_size: int | None = 512,
        fit: Fit = "stretch",
        resize_filter: ResizeFilter = "bicubic",
        noise_floor: Literal["same_image", "none"] = "same_image",
        size_multiple: int = 1,
    ) -> None:
        super().__init__(
            image_size,
            fit,
            resize_filter,
            batch_size=1,
            num_workers=0,
            noise_floor=noise_floor,
            floor_pairs=1,
            on_bad_image="error",
            limit=None,
            size_multiple=size_multiple,
            fill=None,
        )
        self.save_hyperparameters(
            {
                "img1": str(img1),
                "img2": str(img2),
                "mask": None if mask is None else str(mask),
                "image_size": image_size,
                "fit": str(fit),
                "resize_filter": str(resize_filter),
                "noise_floor": str(noise_floor),
                "size_multiple": size_multiple,
            }
        )
        for name, file in (("img1", img1), ("img2", img2), ("mask", mask)):
            if file is not None and not Path(file).is_file():
                raise DataError(
                    f"data.init_args.{name} is {file}, which is no file (seen from {Path.cwd()}). Correct the path "
                    f"(--{name} of `layerscope pair`)."
                )
        identifier = Path(img1).stem
        check_id(identifier, str(img1))
        masks = () if mask is None else (Path(mask),)
        self._take(PairRecords((PairRecord(identifier, Path(img1), Path(img2), masks),), ONE_PAIR))
