"""What every datamodule of image pairs shares: checks of its options, the two data sets and their loaders."""

from __future__ import annotations

from typing import Any, get_args

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from layerscope.data.images import Fit
from layerscope.data.loader import image_loader
from layerscope.data.options import check_counts, check_side
from layerscope.data.pairs.dataset import FloorPairs, ImagePairs, OnBadImage
from layerscope.data.pairs.filling import Fill
from layerscope.data.pairs.floor import Floor, NoiseFloor, choose_floor
from layerscope.data.pairs.reading import PairReader
from layerscope.data.pairs.records import PairRecords
from layerscope.data.sampler import UnrepeatedDistributedSampler
from layerscope.errors import ConfigurationError
from layerscope.types import CKA_GROUP, LabelSet, ResizeFilter


class PairDataModule(LightningDataModule):
    """Pairs of images for ``test``, and a noise floor; implements ``LabelledData``, without labels.

    A subclass calls ``_take`` with the pairs that it found. ``test`` reads two loaders of ``types.PairBatch``: the
    pairs, and the noise floor unless it is none. Each row is visited exactly once on any number of processes, groups of
    ``types.CKA_GROUP`` rows by one process; that needs a Trainer with ``use_distributed_sampler=False`` (the
    layerscope command sets it).

    Args: see the subclasses.
    """

    eval_split = "pairs"

    def __init__(
        self,
        image_size: int | None,
        fit: Fit,
        resize_filter: ResizeFilter,
        batch_size: int,
        num_workers: int,
        noise_floor: NoiseFloor,
        floor_pairs: int,
        on_bad_image: OnBadImage,
        limit: int | None,
        size_multiple: int,
        fill: Fill | None,
    ) -> None:
        super().__init__()
        counts = {"image_size": image_size, "batch_size": batch_size, "floor_pairs": floor_pairs, "limit": limit}
        check_counts({**counts, "size_multiple": size_multiple}, num_workers)
        check_side("image_size", image_size, size_multiple)
        choices: dict[str, tuple[str, Any]] = {
            "fit": (fit, Fit),
            "resize_filter": (resize_filter, ResizeFilter),
            "noise_floor": (noise_floor, NoiseFloor),
            "on_bad_image": (on_bad_image, OnBadImage),
        }
        for name, (value, allowed) in choices.items():
            if value not in get_args(allowed):
                raise ConfigurationError(
                    f"data.init_args.{name} is {value!r}: expected {', '.join(get_args(allowed))}."
                )
        self.image_size = image_size
        self.fit = fit
        self.resize_filter: ResizeFilter = resize_filter
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.noise_floor = noise_floor
        self.floor_pairs = floor_pairs
        self.on_bad_image = on_bad_image
        self.limit = limit
        self.size_multiple = size_multiple
        self.fill = fill
        self._reader = PairReader(image_size, fit, resize_filter, fill)
        self._floor: Floor | None = None
        self._hash: str | None = None

    def _take(self, found: PairRecords) -> None:
        self.pairs = found.in_hash_order(self.limit)

    def setup(self, stage: str) -> None:
        """Chooses the noise floor. Raises ConfigurationError for any stage but test."""
        if stage != "test":
            raise ConfigurationError(
                f"{type(self).__name__} holds pairs of images to compare, which only `layerscope test` does; got the "
                f"stage {TrainerFn(stage).value}. To train, use layerscope.data.folder.ImageFolder or MultilabelImages."
            )
        floor = self.floor()
        rank_zero_info(f"pairs: {len(self.pairs):,}, noise floor: {len(floor.rows):,} ({floor.kind})")
        if floor.note is not None:
            rank_zero_info(floor.note)

    def floor(self) -> Floor:
        """The noise floor, chosen when first asked for: without ``image_size`` that reads headers."""
        if self._floor is None:
            of_one_size = self.image_size is None
            self._floor = choose_floor(self.pairs.records, self.noise_floor, self.floor_pairs, of_one_size)
        return self._floor

    def test_dataloader(self) -> list[DataLoader]:
        """Of the pairs and, unless ``noise_floor`` is none, of the noise floor.

        ``loader.dataset.ids`` are the ids in the order of the rows.
        """
        options = (self._reader, self.on_bad_image, self.size_multiple)
        loaders = [self._loader(ImagePairs(self.pairs.records, *options))]
        floor = self.floor()
        if floor.kind != "none":
            loaders.append(self._loader(FloorPairs(floor.rows, *options)))
        return loaders

    def _loader(self, dataset: ImagePairs | FloorPairs) -> DataLoader:
        sampler = UnrepeatedDistributedSampler(dataset, block=CKA_GROUP)
        # Nothing here draws random numbers, so one seed is as good as another.
        return image_loader(DataLoader, dataset, sampler, dataset.collate, self.batch_size, self.num_workers, seed=0)

    @property
    def labels(self) -> LabelSet:
        """No labels."""
        return LabelSet((), (), ())

    def evaluated_groups(self) -> list[str] | None:
        """Group (patient) of each pair; None where the data has no groups."""
        return self.pairs.groups()

    def data_hash(self, split: str) -> str:
        """SHA-256 over ids, image sizes in the files, the way of filling, and which pairs have masks."""
        if split != self.eval_split:
            raise ConfigurationError(
                f"{type(self).__name__} has one split, {self.eval_split!r}; asked was for {split!r}."
            )
        if self._hash is None:
            self._hash = self.pairs.hash(self.fill)
        return self._hash

    def describe(self) -> dict[str, Any]:
        """What was compared, in plain types, for a run's summary.

        ``noise_floor`` is the kind that is used, and ``noise_floor_note`` says why where another was asked for.
        """
        floor = self.floor()
        return {
            "layout": self.pairs.layout,
            "pairs": len(self.pairs),
            "masks": self.pairs.with_mask(),
            "fill": self.fill,
            "noise_floor": floor.kind,
            "noise_floor_asked": self.noise_floor,
            "noise_floor_note": floor.note,
            "floor_rows": len(floor.rows),
            "image_size": self.image_size,
            "fit": self.fit,
            "resize_filter": self.resize_filter,
            "on_bad_image": self.on_bad_image,
            "limit": self.limit,
        }
