"""The data sets behind every datamodule of image pairs: the pairs, and the noise floor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from layerscope.data.dataset import check_divisible, check_one_size
from layerscope.data.pairs.floor import FloorRow
from layerscope.data.pairs.masks import check_same_size
from layerscope.data.pairs.reading import NothingToCompareError, PairImages, PairReader
from layerscope.data.pairs.records import PairRecord
from layerscope.errors import DataError
from layerscope.types import PairBatch, PairRole, SkippedSample

OnBadImage = Literal["error", "skip"]

_SIZE_OPTION = "image_size"
_ONE_SIZE = "Set data.init_args.image_size, or batch_size: 1."


class PairSample(TypedDict):
    """One row of a split: as ``types.PairBatch``, without the batch dimension."""

    positive: Tensor
    negative: Tensor
    mask: Tensor
    has_mask: bool
    id: str
    index: int


class _Pairs(Dataset[PairSample | SkippedSample]):
    """Map-style data set; the files of a row are decoded when it is asked for, once.

    ids: N ids. role: of the batches. on_bad_image: whether a file that cannot be used ends the run or skips its row.
    """

    role: PairRole

    def __init__(
        self, ids: list[str], reader: PairReader, on_bad_image: OnBadImage = "error", size_multiple: int = 1
    ) -> None:
        self.ids = ids
        self.reader = reader
        self.on_bad_image = on_bad_image
        self.size_multiple = size_multiple

    def _read(self, row: int) -> tuple[PairImages, bool, Path]:
        """The images of a row, whether it has a mask, and a file to name in messages."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> PairSample | SkippedSample:
        try:
            images, has_mask, path = self._read(index)
        except NothingToCompareError as reason:
            return SkippedSample(self.ids[index], int(index), str(reason))
        except DataError as error:
            if self.on_bad_image == "error":
                if len(self.ids) == 1:
                    raise
                raise DataError(f"{error} Or leave such pairs out: data.init_args.on_bad_image: skip.") from error
            return SkippedSample(self.ids[index], int(index), str(error))
        # Not skipped: it is the settings that do not suit the image.
        check_divisible(images.positive, path, self.size_multiple, _SIZE_OPTION)
        return {
            "positive": images.positive,
            "negative": images.negative,
            "mask": images.mask,
            "has_mask": has_mask,
            "id": self.ids[index],
            "index": int(index),
        }

    def collate(self, samples: Sequence[PairSample | SkippedSample]) -> PairBatch:
        """A batch, of 0 pairs where all were skipped; images of different sizes are an error that names two of them."""
        skipped = [sample for sample in samples if isinstance(sample, SkippedSample)]
        read = [sample for sample in samples if not isinstance(sample, SkippedSample)]
        if read:
            check_one_size([(sample["id"], sample["positive"]) for sample in read], _ONE_SIZE)
        side = self.reader.image_size or 0
        no_image, no_mask = torch.empty(0, 3, side, side), torch.empty(0, side, side, dtype=torch.bool)
        return {
            "role": self.role,
            "positive": torch.stack([sample["positive"] for sample in read]) if read else no_image,
            "negative": torch.stack([sample["negative"] for sample in read]) if read else no_image.clone(),
            "mask": torch.stack([sample["mask"] for sample in read]) if read else no_mask,
            "has_mask": torch.tensor([sample["has_mask"] for sample in read], dtype=torch.bool),
            "id": [sample["id"] for sample in read],
            "index": torch.tensor([sample["index"] for sample in read], dtype=torch.int64),
            # A stand-in (row −1) is visited by the process whose row it is.
            "skipped": [pair for pair in skipped if pair.row >= 0],
        }


class ImagePairs(_Pairs):
    """Positive and negative of each record, and its mask."""

    role: PairRole = "pair"

    def __init__(
        self,
        records: Sequence[PairRecord],
        reader: PairReader,
        on_bad_image: OnBadImage = "error",
        size_multiple: int = 1,
    ) -> None:
        super().__init__([record.id for record in records], reader, on_bad_image, size_multiple)
        self.records = tuple(records)

    def _read(self, row: int) -> tuple[PairImages, bool, Path]:
        record = self.records[row]
        return self.reader.pair(record), bool(record.masks), record.positive


class FloorPairs(_Pairs):
    """The two negatives of each row of a noise floor, without masks."""

    role: PairRole = "floor"

    def __init__(
        self,
        rows: Sequence[FloorRow],
        reader: PairReader,
        on_bad_image: OnBadImage = "error",
        size_multiple: int = 1,
    ) -> None:
        super().__init__([row.id for row in rows], reader, on_bad_image, size_multiple)
        self.rows = tuple(rows)

    def _read(self, row: int) -> tuple[PairImages, bool, Path]:
        couple = self.rows[row]
        first = self.reader.negative(couple.first)
        second = first.clone() if couple.second is couple.first else self.reader.negative(couple.second)
        path, other_path = (record.negative or record.positive for record in (couple.first, couple.second))
        # Couples were chosen by their headers, where EXIF may turn one of them.
        check_same_size(path, first.shape[-2:], other_path, second.shape[-2:], "negative", "partner in the noise floor")
        return PairImages(first, second, torch.zeros(first.shape[-2:], dtype=torch.bool)), False, path
