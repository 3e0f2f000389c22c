"""Images with lesion masks, whose negatives are made by filling the masks in: the datamodule."""

from __future__ import annotations

from layerscope.data.images import Fit
from layerscope.data.options import existing_root
from layerscope.data.pairs.datamodule import PairDataModule
from layerscope.data.pairs.dataset import OnBadImage
from layerscope.data.pairs.filling import Fill, check_fill
from layerscope.data.pairs.floor import NoiseFloor
from layerscope.data.pairs.masked_records import read_masked_images
from layerscope.types import ResizeFilter


class MaskedImages(PairDataModule):
    """Each image against itself with its lesions filled in, which is done at the file's resolution.

    ::

        root/                               root/
          benign/benign (1).png               images/any/0001.png   masks/any/0001.png
          benign/benign (1)_mask.png          images/0002.jpg       masks/0002_mask.png
          benign/benign (1)_mask_1.png                              masks/0002_mask_1.png
          normal/normal (1).png
          normal/normal (1)_mask.png

    On the left the layout of BUSI (Al-Dhabyani et al., Data in Brief 2020), with or without folders; on the right
    ``images/`` and ``masks/``. Several masks of one image are united. The id of a pair is the path of the image below
    ``root``, or below ``images/``, without the suffix. Rows are in the order of a hash of the ids. An image whose mask
    is empty is no pair and is skipped.

    Args:
        root: the folder.
        fill: how lesions are filled in: telea (needs OpenCV: ``pip install layerscope[inpaint]``), blur (Gaussian
            average of the surround) or mean (of all pixels outside); see ``filling.fill_in``.
        image_size: side in pixels of the square that images are resized to; None keeps their size.
        fit: stretch resizes the whole image, without keeping its proportions; crop its largest central square.
        resize_filter: antialiased filter of the resizing.
        batch_size: pairs per batch and process; linear CKA needs a multiple of 4 (``types.CKA_GROUP``).
        num_workers: processes that decode and fill images; 0 does it in the main process.
        patient: regular expression, searched in the path of the image relative to ``root``, or to ``images/``; its
            first group names the patient. None takes every image for its own.
        noise_floor: negatives compares couples of negatives (of different patients where they are known; of equal size
            where ``image_size`` is None), same_image each negative with itself, none nothing. With fewer than two
            couples negatives becomes same_image. The negative of an image with an empty mask is the image.
        floor_pairs: at most this many rows of the noise floor.
        on_bad_image: what a file does that cannot be used: error ends the run, skip leaves its pair out and tells.
        limit: at most this many pairs, the first of the rows, for a dry run.
        size_multiple: the sides of an image must be multiples of this, the downsampling of the model.
    """

    def __init__(
        self,
        root: str,
        fill: Fill = "telea",
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
            fill,
        )
        self.save_hyperparameters(
            {
                "root": str(root),
                "fill": str(fill),
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
        check_fill(fill)
        self.root = existing_root(root)
        self._take(read_masked_images(self.root, patient))
