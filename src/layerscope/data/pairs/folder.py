"""Two folders of images, positive and negative: the datamodule."""

from __future__ import annotations

from layerscope.data.images import Fit
from layerscope.data.options import existing_root
from layerscope.data.pairs.datamodule import PairDataModule
from layerscope.data.pairs.dataset import OnBadImage
from layerscope.data.pairs.floor import NoiseFloor
from layerscope.data.pairs.folder_records import read_pair_folder
from layerscope.types import ResizeFilter


class PairFolder(PairDataModule):
    """Images of the same name in ``positive/`` and ``negative/``, and masks where there are any.

    ::

        root/
          positive/any/0001.png   negative/any/0001.jpg   masks/any/0001.png (optional)
          positive/0002.png       negative/0002.png       masks/0002_mask.png, masks/0002_mask_1.png

    The id of a pair is the path below ``positive/`` without the suffix, which may differ between the folders. Several
    masks of one image are united. Rows are in the order of a hash of the ids.

    Args:
        root: the folder.
        image_size: side in pixels of the square that images are resized to; None keeps their size.
        fit: stretch resizes the whole image, without keeping its proportions; crop its largest central square.
        resize_filter: antialiased filter of the resizing.
        batch_size: pairs per batch and process; linear CKA needs a multiple of 4 (``types.CKA_GROUP``).
        num_workers: processes that decode images; 0 decodes in the main process.
        patient: regular expression, searched in the path relative to ``root/positive``; its first group names the
            patient. None takes every pair for its own.
        noise_floor: negatives compares couples of negatives (of different patients where they are known; of equal size
            where ``image_size`` is None), same_image each negative with itself, none nothing. With fewer than two
            couples negatives becomes same_image.
        floor_pairs: at most this many rows of the noise floor.
        on_bad_image: what a file does that cannot be used: error ends the run, skip leaves its pair out and tells.
        limit: at most this many pairs, the first of the rows, for a dry run.
        size_multiple: the sides of an image must be multiples of this, the downsampling of the model.
    """

    def __init__(
        self,
        root: str,
        image_size: int | None = 512,
        fit: Fit = "stretch",
        resize_filter: ResizeFilter = "bicubic",
        batch_size: int = 4,
        num_workers: int = 0,
        patient: str | None = None,
        noise_floor: NoiseFloor = "negatives",
        floor_pairs: int = 64,
        on_bad_image: OnBadImage = "error",
        limit: int | None = None,
        size_multiple: int = 1,
    ) -> None:
        super().__init__(
            image_size,
            fit,
            resize_filter,
            batch_size,
            num_workers,
            noise_floor,
            floor_pairs,
            on_bad_image,
            limit,
            size_multiple,
            fill=None,
        )
        self.save_hyperparameters(
            {
                "root": str(root),
                "image_size": image_size,
                "fit": str(fit),
                "resize_filter": str(resize_filter),
                "batch_size": batch_size,
                "num_workers": num_workers,
                "patient": patient,
                "noise_floor": str(noise_floor),
                "floor_pairs": floor_pairs,
                "on_bad_image": str(on_bad_image),
                "limit": limit,
                "size_multiple": size_multiple,
            }
        )
        self.root = existing_root(root)
        self._take(read_pair_folder(self.root, patient))
