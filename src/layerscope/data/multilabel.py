"""Multi-label images from files: the data set and its datamodule."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from layerscope.data.images import ResizeFilter, read_image
from layerscope.data.locate import find_data_file
from layerscope.data.sampler import UnrepeatedDistributedSampler, rank_and_world
from layerscope.data.schema import load_label_schema
from layerscope.data.table import SplitRecords, read_data_table
from layerscope.errors import ConfigurationError, DataError
from layerscope.types import Batch, LabelSet


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


class MultilabelImages(LightningDataModule):
    """Image files with several yes-no labels each, some of them perhaps unknown; implements ``LabelledData``.

    ::

        root/                     root/                      root/
          labels.csv (table)        splits.yaml (split_file)   train/0001.png ...
          schema.yaml               labels.csv, schema.yaml    val/0002.png ...
          images/0001.png ...       images/0001.png ...        test/sub/0003.png ...

    docs/data.md describes the files. ``fit`` reads train and val, ``validate`` val, ``test`` and ``predict`` the
    split ``eval_split``. Validation and evaluation visit each image exactly once on any number of processes, which
    needs a Trainer with ``use_distributed_sampler=False`` (the layerscope command sets it).

    Args:
        root: directory that relative image paths start from.
        schema: label schema, YAML. This and the next two are looked for in ``root``, then in the working directory,
            then among the files shipped with layerscope.
        table: CSV with ``id, path, split, group`` and one column per label.
        split_file: YAML with the ids or paths of train, val and test; replaces the table's ``split`` column.
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
        schema: str,
        table: str | None = None,
        split_file: str | None = None,
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
        super().__init__()
        sizes = {"image_size": image_size, "center_crop_size": center_crop_size, "limit": limit}
        for name, value in {**sizes, "batch_size": batch_size, "size_multiple": size_multiple}.items():
            if value is not None and value < 1:
                raise ConfigurationError(f"data.init_args.{name} is {value}; it must be at least 1.")
        if num_workers < 0:
            raise ConfigurationError(f"data.init_args.num_workers is {num_workers}; it must be 0 or more.")
        side = image_size if image_size is not None else center_crop_size
        if side is not None and side % size_multiple:
            below, above = side // size_multiple * size_multiple, (side // size_multiple + 1) * size_multiple
            raise ConfigurationError(
                f"data.init_args.{'image_size' if image_size is not None else 'center_crop_size'} is {side}, which "
                f"size_multiple {size_multiple} (the downsampling of the model) does not divide. "
                f"Use {f'{below} or ' if below else ''}{above}."
            )
        self.save_hyperparameters(
            {
                "root": str(root),
                "schema": str(schema),
                "table": None if table is None else str(table),
                "split_file": None if split_file is None else str(split_file),
                **sizes,
                "resize_filter": str(resize_filter),
                "batch_size": batch_size,
                "num_workers": num_workers,
                "eval_split": str(eval_split),
                "size_multiple": size_multiple,
                "seed": seed,
            }
        )
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"data.init_args.root is {root}, which is no directory (seen from {Path.cwd()}).")
        self.image_size = image_size
        self.center_crop_size = center_crop_size
        self.resize_filter: ResizeFilter = resize_filter
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.eval_split: str = eval_split
        self.limit = limit
        self.size_multiple = size_multiple
        self.seed = seed
        self.schema = load_label_schema(find_data_file(schema, root, "schema"))
        self.table = read_data_table(
            self.root,
            self.schema,
            None if table is None else find_data_file(table, root, "table"),
            None if split_file is None else find_data_file(split_file, root, "split_file"),
        )
        self._datasets: dict[str, LabelledImages] = {}
        self._hashes: dict[str, str] = {}

    def setup(self, stage: str) -> None:
        """Checks the splits that ``stage`` reads: fit train and val, validate val, test and predict ``eval_split``."""
        splits: tuple[str, ...]
        match stage:
            case "fit":
                splits = ("train", "val")
            case "validate":
                splits = ("val",)
            case _:
                splits = (self.eval_split,)
        for split in splits:
            self.dataset(split)

    @property
    def labels(self) -> LabelSet:
        """The labels, in the order of the columns of ``target``."""
        return self.schema.label_set()

    def dataset(self, split: str) -> LabelledImages:
        """The data set of a split, made when first asked for."""
        if split not in self._datasets:
            self._datasets[split] = LabelledImages(
                self.table.split(split).evenly_spaced(self.limit),
                self.image_size,
                self.center_crop_size,
                self.resize_filter,
                self.size_multiple,
            )
        return self._datasets[split]

    def evaluated_groups(self) -> list[str] | None:
        """Group (patient) of each row of ``eval_split``; None where the data has no groups."""
        return self.dataset(self.eval_split).groups

    def data_hash(self, split: str) -> str:
        """SHA-256 over ids, image sizes in pixels (as the files' headers tell) and labels of a split as it is read."""
        if split not in self._hashes:
            self._hashes[split] = self.dataset(split).split.hash()
        return self._hashes[split]

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled anew each epoch, from ``seed`` and the epoch; each process reads its own share."""
        rank, world = rank_and_world()
        dataset = self.dataset("train")
        return self._loader(dataset, DistributedSampler(dataset, num_replicas=world, rank=rank, seed=self.seed))

    def val_dataloader(self) -> DataLoader[Sample]:
        """The split val, in order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """The split ``eval_split``, in order."""
        return self._evaluation_loader(self.eval_split)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The split ``eval_split``, in order."""
        return self._evaluation_loader(self.eval_split)

    def _evaluation_loader(self, split: str) -> DataLoader[Sample]:
        dataset = self.dataset(split)
        return self._loader(dataset, UnrepeatedDistributedSampler(dataset))

    def _loader(self, dataset: LabelledImages, sampler: Sampler[int]) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=dataset.collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )
