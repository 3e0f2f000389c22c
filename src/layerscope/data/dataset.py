"""The data set behind every datamodule that reads image files."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from layerscope.data.images import ResizeFilter, read_image
from layerscope.data.records import SplitRecords
from layerscope.errors import DataError
from layerscope.types import Batch


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
        height, width = image.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            nearest = max(self.size_multiple, min(height, width) // self.size_multiple * self.size_multiple)
            raise DataError(
                f"{path} has {width}×{height} pixels, which the model's downsampling of {self.size_multiple} does not "
                f"divide. Set data.init_args.image_size (resizes) or center_crop_size (cuts) to a multiple of "
                f"{self.size_multiple}, such as {nearest}."
            )
        return {
            "image": image,
            "target": self.targets[index],
            "known": self.known[index],
            "id": self.ids[index],
            "index": int(index),
        }

    def collate(self, samples: list[Sample]) -> Batch:
        """A batch; images of different sizes are an error that names two of them."""
        first = samples[0]
        for other in samples:
            if other["image"].shape != first["image"].shape:
                (h1, w1), (h2, w2) = first["image"].shape[-2:], other["image"].shape[-2:]
                raise DataError(
                    f"The images {first['id']!r} ({w1}×{h1} pixels) and {other['id']!r} ({w2}×{h2}) cannot share a "
                    "batch. Set data.init_args.image_size or center_crop_size, or batch_size: 1."
                )
        return {
            "image": torch.stack([sample["image"] for sample in samples]),
            "target": torch.stack([sample["target"] for sample in samples]),
            "known": torch.stack([sample["known"] for sample in samples]),
            "id": [sample["id"] for sample in samples],
            "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
        }
