"""Plain folders of images, without labels: the datamodule."""

from __future__ import annotations

from typing import Literal

from layerscope.data.datamodule import ImageDataModule
from layerscope.data.folder_records import read_image_folder
from layerscope.data.locate import find_data_file
from layerscope.types import LabelSet, ResizeFilter


class ImageFolder(ImageDataModule):
    """Every image below a folder, split into train, val and test in one of three ways; implements ``LabelledData``.

    ::

        root/                     root/                      root/
          any/nested/0001.png       splits.yaml (split_file)   train/any/0001.png
          0002.jpg                  any/nested/0001.png        val/0002.jpg
          (val_fraction: 0.1)       0002.jpg                   test/0003.tif

    There are no labels: ``labels`` has length 0, ``target`` and ``known`` of a batch are (B, 0). The id of an image is
    its path relative to ``root`` without the suffix, and with it where files differ only in the suffix. docs/data.md
    tells more.

    Args:
        root: the folder.
        val_fraction: share of the images (with ``patient``, of the patients) that val gets, above 0 and below 1; train
            gets the others. A hash of the path or patient decides, so that added images move no others.
        split_file: YAML with the ids or paths of train, val and test; looked for in ``root``, then in the working
            directory. Images that it does not list are not used. Without it and ``val_fraction`` the folders
            ``root/train``, ``root/val`` and ``root/test`` are the splits.
        patient: regular expression, searched in the path relative to ``root``; its first group names the patient.
            Images of one patient stay in one split. None takes every image for its own.
        image_size: side in pixels of the square that images are resized to; None keeps their size.
        center_crop_size: side in pixels of the file of the central square that is cut out before resizing.
        resize_filter: antialiased filter of the resizing.
        batch_size: images per batch and process.
        num_workers: processes that decode images; 0 decodes in the main process.
        eval_split: the split that ``test`` and ``predict`` read.
        limit: at most this many images of each split, evenly spaced, for a dry run.
        size_multiple: the sides of an image must be multiples of this, the downsampling of the model.
        seed: of the training order.
    """

    def __init__(
        self,
        root: str,
        val_fraction: float | None = None,
        split_file: str | None = None,
        patient: str | None = None,
        image_size: int | None = None,
        center_crop_size: int | None = None,
        resize_filter: ResizeFilter = "bicubic",
        batch_size: int = 8,
        num_workers: int = 0,
        eval_split: Literal["train", "val", "test"] = "val",
        limit: int | None = None,
        size_multiple: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            image_size,
            center_crop_size,
            resize_filter,
            batch_size,
            num_workers,
            eval_split,
            limit,
            size_multiple,
            seed,
        )
        self.save_hyperparameters(
            {
                "val_fraction": val_fraction,
                "split_file": None if split_file is None else str(split_file),
                "patient": patient,
            }
        )
        self.table = read_image_folder(
            self.root,
            val_fraction,
            None if split_file is None else find_data_file(split_file, root, "split_file"),
            patient,
        )

    @property
    def labels(self) -> LabelSet:
        """No labels."""
        return LabelSet((), (), ())
