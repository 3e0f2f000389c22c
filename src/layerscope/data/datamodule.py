"""What every datamodule that reads image files shares: checks of its options, data sets, loaders and their state."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from layerscope.data.dataset import LabelledImages, Sample
from layerscope.data.loader import ResumableDataLoader, image_loader
from layerscope.data.options import check_counts, check_side, existing_root
from layerscope.data.records import DataTable
from layerscope.data.sampler import ResumableSampler, UnrepeatedDistributedSampler
from layerscope.errors import ConfigurationError
from layerscope.types import ResizeFilter


class ImageDataModule(LightningDataModule):
    """Reads the splits of a table of image files; a subclass sets ``table`` and adds ``labels``.

    ``fit`` reads train and val, ``validate`` val, ``test`` and ``predict`` the split ``eval_split``; while a training
    runs, test is refused to whoever asks. Validation and
    evaluation visit each image exactly once on any number of processes, which needs a Trainer with
    ``use_distributed_sampler=False`` (the layerscope command sets it). Training stopped within an epoch goes on with
    the images that the epoch has left.

    Lightning stores and restores the state of the training loader by itself, but not when something asks for the
    loader before the trainer's own state is restored: ``trainer.estimated_stepping_batches`` in
    ``configure_optimizers`` does, and the epoch then begins anew (Lightning issue 20550). So the state is stored with
    the datamodule too, which is restored earlier.

    Args: see the subclasses.
    """

    table: DataTable

    def __init__(
        self,
        root: str,
        image_size: int | None,
        center_crop_size: int | None,
        resize_filter: ResizeFilter,
        batch_size: int,
        num_workers: int,
        eval_split: str,
        limit: int | None,
        size_multiple: int,
        seed: int,
    ) -> None:
        super().__init__()
        sizes = {"image_size": image_size, "center_crop_size": center_crop_size, "limit": limit}
        check_counts({**sizes, "batch_size": batch_size, "size_multiple": size_multiple}, num_workers)
        if image_size is not None:
            check_side("image_size", image_size, size_multiple)
        else:
            check_side("center_crop_size", center_crop_size, size_multiple)
        self.save_hyperparameters(
            {
                "root": str(root),
                **sizes,
                "resize_filter": str(resize_filter),
                "batch_size": batch_size,
                "num_workers": num_workers,
                "eval_split": str(eval_split),
                "size_multiple": size_multiple,
                "seed": seed,
            }
        )
        self.root = existing_root(root)
        self.image_size = image_size
        self.center_crop_size = center_crop_size
        self.resize_filter: ResizeFilter = resize_filter
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.eval_split = eval_split
        self.limit = limit
        self.size_multiple = size_multiple
        self.seed = seed
        self._datasets: dict[str, LabelledImages] = {}
        self._hashes: dict[str, str] = {}
        self._stored_position: dict[str, int] | None = None

    def setup(self, stage: str) -> None:
        """Checks the splits that ``stage`` reads: fit train and val, validate val, test and predict ``eval_split``."""
        # Called before a checkpoint is read: what an earlier one left is no longer meant.
        self._stored_position = None
        splits: tuple[str, ...]
        match stage:
            case "fit":
                splits = ("train", "val")
            case "validate":
                splits = ("val",)
            case _:
                splits = (self.eval_split,)
        counts = {split: len(self.dataset(split)) for split in splits}
        if stage == "fit":
            rank_zero_info(", ".join(f"{split}: {count:,} images" for split, count in counts.items()))

    def dataset(self, split: str) -> LabelledImages:
        """The data set of a split, made when first asked for.

        Raises:
            ConfigurationError: a training runs, and ``split`` is test.
        """
        if split == "test" and self.trainer is not None and _trains(self.trainer):
            raise ConfigurationError(
                "Something asked for the split 'test' while a training runs. fit trains on train and stops by val: "
                "whoever chooses epochs or settings by a look at test has no test set left. Take what asks out of the "
                "training (a callback that reads eval_split), set data.init_args.eval_split to val, or look at test "
                "with `layerscope test` when the training is over."
            )
        if split not in self._datasets:
            self._datasets[split] = LabelledImages(
                self.table.split(split).evenly_spaced(self.limit),
                self.image_size,
                self.center_crop_size,
                self.resize_filter,
                self.size_multiple,
            )
        return self._datasets[split]

    def split_ids(self, split: str) -> list[str]:
        """All ids that the table lists for a split, whatever ``limit``; none where it is empty.

        No image file is looked for, so test may be asked for while a training runs.
        """
        return [record.id for record in self.table.splits.get(split, ())]

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
        dataset = self.dataset("train")
        sampler = ResumableSampler(dataset, self.seed)
        loader = image_loader(
            ResumableDataLoader, dataset, sampler, dataset.collate, self.batch_size, self.num_workers, self.seed
        )
        loader.trained = partial(self._trained_batches, loader)
        # Once the trainer has its loader, others are for something else, such as statistics of the training images.
        if self._stored_position is not None and self._training_loader() is None:
            loader.load_state_dict(self._stored_position)
        return loader

    def val_dataloader(self) -> DataLoader[Sample]:
        """The split val, in order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """The split ``eval_split``, in order."""
        return self._evaluation_loader(self.eval_split)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The split ``eval_split``, in order."""
        return self._evaluation_loader(self.eval_split)

    def state_dict(self) -> dict[str, Any]:
        """The position in the training images, for checkpoints saved while training."""
        loader = self._training_loader()
        return {} if loader is None else {"train": loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Training goes on at the position in ``state_dict``; validation and tests take no notice of it."""
        if self._fitting():
            self._stored_position = state_dict["train"]
            # Strategies that shard the model restore after the loader was made.
            if (loader := self._training_loader()) is not None:
                loader.load_state_dict(state_dict["train"])

    def _fitting(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def _training_loader(self) -> ResumableDataLoader[Sample] | None:
        """The loader that the trainer trains with, as soon as it has one."""
        loader = self.trainer.train_dataloader if self.trainer is not None and self._fitting() else None
        return loader if isinstance(loader, ResumableDataLoader) else None

    def _trained_batches(self, loader: ResumableDataLoader[Sample]) -> int | None:
        """Batches of the running epoch that the trainer is done with, if it is ``loader`` that it trains with."""
        if self.trainer is None or self._training_loader() is not loader:
            return None
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return progress.processed

    def _evaluation_loader(self, split: str) -> DataLoader[Sample]:
        dataset = self.dataset(split)
        sampler = UnrepeatedDistributedSampler(dataset)
        return image_loader(DataLoader, dataset, sampler, dataset.collate, self.batch_size, self.num_workers, self.seed)


def _trains(trainer: Trainer) -> bool:
    """Whether a training runs now; what a trainer last did, it still says when that is over."""
    return trainer.state.fn == TrainerFn.FITTING and trainer.state.status == TrainerStatus.RUNNING
