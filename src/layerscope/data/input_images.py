"""The data set of images as a model takes them, with their masks and with what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from layerscope.data.dataset import check_one_size
from layerscope.data.image_records import ImageRecord, ImageRecords
from layerscope.data.images import image_tensor, read_pixels
from layerscope.data.model_input import fit_geometry, fit_mask_geometry
from layerscope.data.pairs.masks import Mask, read_masks
from layerscope.errors import DataError
from layerscope.types import InputGeometry, SkippedSample, TokenBatch

OnBadImage = Literal["error", "skip"]

_ONE_SIZE = (
    "Set data.init_args.batch_size: 1, or have the model's encoder take all images at one size (model.encoder.fit: "
    "processor, or its image_size)."
)


class InputSample(TypedDict):
    """One image: as ``types.TokenBatch``, without the batch dimension."""

    image: Tensor
    other: Tensor | None
    other_id: str | None
    other_mask: Tensor | None
    other_shown: NDArray[np.float64] | None
    mask: Tensor
    has_mask: bool
    shown: NDArray[np.float64]
    id: str
    index: int


class InputImages(Dataset[InputSample | SkippedSample]):
    """Map-style data set; the files of a row are decoded when it is asked for, once.

    ids: N ids. geometry: how pictures become what the model takes. other_geometry: the same of a second model, which
    then sees the same pictures.
    """

    def __init__(
        self,
        images: ImageRecords,
        geometry: InputGeometry,
        on_bad_image: OnBadImage = "error",
        other_geometry: InputGeometry | None = None,
    ) -> None:
        self.records = images.records
        self.compared = images.compared
        self.geometry = geometry
        self.other_geometry = other_geometry
        self.on_bad_image = on_bad_image
        self.ids = [record.id for record in images.records]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> InputSample | SkippedSample:
        record = self.records[index]
        try:
            return self._read(record, int(index))
        except DataError as error:
            if self.on_bad_image == "skip":
                return SkippedSample(record.id, int(index), str(error))
            if len(self.ids) == 1:
                raise
            raise DataError(f"{error} Or leave such images out: data.init_args.on_bad_image: skip.") from error

    def collate(self, samples: Sequence[InputSample | SkippedSample]) -> TokenBatch:
        """A batch, of 0 images where all were skipped; images of different sizes are an error that names two."""
        skipped = [sample for sample in samples if isinstance(sample, SkippedSample)]
        read = [sample for sample in samples if not isinstance(sample, SkippedSample)]
        if read:
            check_one_size([(sample["id"], sample["image"]) for sample in read], _ONE_SIZE)
        other_parts = [part for sample in read if (part := sample["other_shown"]) is not None]
        none = torch.empty(0, 3, *self._size())
        if read and read[0]["other"] is not None:
            check_one_size([(sample["id"], sample["other"]) for sample in read], _ONE_SIZE)  # type: ignore[misc]
        return {
            "image": torch.stack([sample["image"] for sample in read]) if read else none,
            "other_id": [sample["other_id"] or sample["id"] for sample in read] if self.compared else None,
            "other": _stacked([sample["other"] for sample in read]),
            "other_mask": _stacked([sample["other_mask"] for sample in read]),
            "other_shown": _parts(other_parts) if other_parts else None,
            "mask": torch.stack([sample["mask"] for sample in read]) if read else none[:, 0].bool(),
            "has_mask": torch.tensor([sample["has_mask"] for sample in read], dtype=torch.bool),
            "shown": _parts([sample["shown"] for sample in read]),
            "id": [sample["id"] for sample in read],
            "index": torch.tensor([sample["index"] for sample in read], dtype=torch.int64),
            # A stand-in (row −1) is visited by the process whose row it is.
            "skipped": [image for image in skipped if image.row >= 0],
        }

    def _read(self, record: ImageRecord, index: int) -> InputSample:
        pixels = read_pixels(record.path)
        size = pixels.shape[0], pixels.shape[1]
        fitted, shown = fit_geometry(pixels, self.geometry, f"The image {record.path}")
        image = image_tensor(fitted)
        other, other_mask, other_shown = self._other(record, image), None, None
        if self.other_geometry is not None:
            name = f"The image {record.path}"
            other_pixels, other_part = fit_geometry(pixels, self.other_geometry, name)
            other, other_shown = image_tensor(other_pixels), np.array(other_part)
            other_mask = torch.from_numpy(self._mask(record, size, self.other_geometry).copy())
        return {
            "image": image,
            "other": other,
            "other_id": None if record.other is None else record.other.stem,
            "other_mask": other_mask,
            "other_shown": other_shown,
            "mask": torch.from_numpy(self._mask(record, size, self.geometry).copy()),
            "has_mask": bool(record.masks),
            "shown": np.array(shown),
            "id": record.id,
            "index": index,
        }

    @staticmethod
    def _mask(record: ImageRecord, size: tuple[int, int], geometry: InputGeometry) -> Mask:
        """Placed as the image is; all False where there is none."""
        mask = read_masks(record.masks, size, record.path) if record.masks else np.zeros(size, np.bool_)
        return fit_mask_geometry(mask, geometry)

    def _other(self, record: ImageRecord, image: Tensor) -> Tensor | None:
        if record.other is None:
            return None
        other = image_tensor(fit_geometry(read_pixels(record.other), self.geometry, f"The image {record.other}")[0])
        if other.shape != image.shape:
            (height, width), (other_height, other_width) = image.shape[-2:], other.shape[-2:]
            raise DataError(
                f"The image {record.path} becomes {width}×{height} pixels for the model and {record.other}, which it "
                f"is compared with, {other_width}×{other_height}: their tokens have no common places. Cut both to the "
                "same proportions, or have the model's encoder take all images at one size (model.encoder.fit: "
                "processor)."
            )
        return other

    def _size(self) -> tuple[int, int]:
        """Of what the model takes where it is the same for all images, else (0, 0)."""
        whole = self.geometry.resize if isinstance(self.geometry.resize, tuple) else (0, 0)
        return self.geometry.crop or whole


def _stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
    """None where the samples have no such part, and in a batch without images, where nobody asks for it."""
    there = [part for part in parts if part is not None]
    return torch.stack(there) if there else None


def _parts(shown: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(B, 4), B may be 0."""
    return np.array(shown, dtype=np.float64).reshape(-1, 4)
