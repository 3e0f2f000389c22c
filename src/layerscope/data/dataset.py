"""The data set behind every datamodule that reads image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from layerscope.data.images import read_image
from layerscope.data.records import SplitRecords
from layerscope.errors import DataError
from layerscope.types import Batch, ResizeFilter

_SIZE_OPTIONS = "image_size (resizes) or center_crop_size (cuts)"
_ONE_SIZE = "Set data.init_args.image_size or center_crop_size, or batch_size: 1."


def check_divisible(image: Tensor, path: Path, size_multiple: int, options: str) -> None:
    """Raises DataError where a side of ``image`` (..., H, W) is no multiple; ``options`` are those that would help."""
    height, width = image.shape[-2:]
    if height % size_multiple or width % size_multiple:
        nearest = max(size_multiple, min(height, width) // size_multiple * size_multiple)
        raise DataError(
            f"{path} has {width}×{height} pixels, which the model's downsampling of {size_multiple} does not divide. "
            f"Set data.init_args.{options} to a multiple of {size_multiple}, such as {nearest}."
        )


def check_one_size(images: Sequence[tuple[str, Tensor]], remedy: str) -> None:
    """Raises DataError that names two of ``images``, ids and (..., H, W), whose sizes differ, and ``remedy``."""
    first_id, first = images[0]
    for other_id, other in images:
        if other.shape != first.shape:
            (h1, w1), (h2, w2) = first.shape[-2:], other.shape[-2:]
            raise DataError(
                f"The images {first_id!r} ({w1}×{h1} pixels) and {other_id!r} ({w2}×{h2}) cannot share a batch. "
                f"{remedy}"
            )


class Sample(TypedDict):
    """One row of a split: as ``types.Batch``, without the batch dimension."""

    image: Tensor
    target: Tensor
    known: Tensor
    id: str
    index: int


class LabelledImages(Dataset[Sample]):
    """Map-style data set over one split; an image is decoded when its row is asked for, once.

    ids: N ids. targets: float32 (N, L) in {0, 1}, 0 where unknown. known: bool (N, L). groups: N names or None.
    """

    def __init__(
        self,
        split: SplitRecords,
        image_size: int | None = None,
        center_crop_size: int | None = None,
        resize_filter: ResizeFilter = "bicubic",
        size_multiple: int = 1,
    ) -> None:
        self.split = split
        self.image_size = image_size
        self.center_crop_size = center_crop_size
        self.resize_filter: ResizeFilter = resize_filter
        self.size_multiple = size_multiple
        self.ids = [record.id for record in split.records]
        self.groups = split.groups()
        self.targets = torch.from_numpy(split.target())
        self.known = torch.from_numpy(split.known())

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        path = self.split.records[index].path
        image = read_image(
            path,
            center_crop_size=self.center_crop_size,
            image_size=self.image_size,
            resize_filter=self.resize_filter,
        )
        check_divisible(image, path, self.size_multiple, _SIZE_OPTIONS)
        return {
            "image": image,
            "target": self.targets[index],
            "known": self.known[index],
            "id": self.ids[index],
            "index": int(index),
        }

    def collate(self, samples: list[Sample]) -> Batch:
        """A batch; images of different sizes are an error that names two of them."""
        check_one_size([(sample["id"], sample["image"]) for sample in samples], _ONE_SIZE)
        return {
            "image": torch.stack([sample["image"] for sample in samples]),
            "target": torch.stack([sample["target"] for sample in samples]),
            "known": torch.stack([sample["known"] for sample in samples]),
            "id": [sample["id"] for sample in samples],
            "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
        }
