"""Any images, named on the command line or in a configuration: the datamodule."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from layerscope.data.image_records import read_image_paths
from layerscope.data.input_images import InputImages, OnBadImage
from layerscope.data.loader import image_loader
from layerscope.data.options import check_counts
from layerscope.data.sampler import UnrepeatedDistributedSampler
from layerscope.errors import ConfigurationError
from layerscope.types import InputGeometry, LabelSet


class ImagePaths(LightningDataModule):
    """Images for ``test``, as the task's model takes them; implements ``LabelledData``, without labels.

    ::

        images/any/0001.jpg   masks/any/0001.png (optional)                        others/any/0001.png (optional)
        images/0002.png       masks/0002_mask.png, masks/0002_mask_1.png           others/0002.jpg

    The id of an image is its path below the deepest folder that holds all of them, without the suffix, with it where
    two differ in nothing else; ``_`` stands for characters that an id must not hold. Rows are sorted by id. A file
    counts once however often it is named.

    ``test`` reads batches of ``types.TokenBatch``. Each row is visited exactly once on any number of processes; that
    needs a Trainer with ``use_distributed_sampler=False`` (the layerscope command sets it). Resizing and cropping are
    the task's: ``input_geometry``, a ``types.InputGeometry``, and ``other_geometry`` for a second model, if it has one.

    Args:
        path: an image file, a folder (all images below it), a pattern such as ``images/*.jpg`` (``**`` for folders of
            any depth), or a list of these. Hidden files are found only by their own names.
        masks: the same, of lesion masks. A mask belongs to the image with its path, suffix aside, or with its path
            without ``_mask``, ``_mask_1``, ... at its end; paths are those below the folders that were named, or in
            which the patterns begin, of several the deepest that holds all. The masks of an image are united. Files
            that are named one by one belong to the only image whatever their names. Masks are no images: ``path`` may
            find them too. Masks of images that were not named are left out, and told.
        other: the same, of the images that each is compared with, which have the same paths, suffix aside; one file
            for one image may have any name.
        batch_size: images per batch and process; above 1 only where all become one size.
        num_workers: processes that decode images; 0 decodes in the main process.
        patient: regular expression, searched in the path below the folder that was named (see ``masks``); its first
            group names the patient. None takes every image for its own.
        limit: at most this many images, spread over all, for a dry run.
        on_bad_image: what a file does that cannot be used: error ends the run, skip leaves its image out and tells.
    """

    eval_split = "images"

    def __init__(
        self,
        path: str | list[str],
        masks: str | list[str] | None = None,
        other: str | list[str] | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        patient: str | None = None,
        limit: int | None = None,
        on_bad_image: OnBadImage = "error",
    ) -> None:
        super().__init__()
        check_counts({"batch_size": batch_size, "limit": limit}, num_workers)
        if on_bad_image not in get_args(OnBadImage):
            raise ConfigurationError(
                f"data.init_args.on_bad_image is {on_bad_image!r}: expected {', '.join(get_args(OnBadImage))}."
            )
        self.save_hyperparameters(
            {
                "path": _plain(path),
                "masks": _plain(masks),
                "other": _plain(other),
                "batch_size": batch_size,
                "num_workers": num_workers,
                "patient": patient,
                "limit": limit,
                "on_bad_image": str(on_bad_image),
            }
        )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.limit = limit
        self.on_bad_image = on_bad_image
        self.images = read_image_paths(path, masks, other, patient).evenly_spaced(limit)
        self._geometry: InputGeometry | None = None
        self._other_geometry: InputGeometry | None = None
        self._hash: str | None = None

    def setup(self, stage: str) -> None:
        """Asks the task for its geometry. Raises ConfigurationError for any stage but test, or where it has none."""
        if stage != "test":
            raise ConfigurationError(
                f"{type(self).__name__} holds images to look at, which only `layerscope test` does; got the stage "
                f"{TrainerFn(stage).value}. To train, use layerscope.data.folder.ImageFolder or MultilabelImages."
            )
        task = getattr(self.trainer, "lightning_module", None)
        geometry = getattr(task, "input_geometry", None)
        if not isinstance(geometry, InputGeometry):
            raise ConfigurationError(
                f"{type(self).__name__} resizes images as the task's model takes them, but {type(task).__name__} has "
                "no input_geometry (a layerscope.types.InputGeometry). Use a configuration of configs/tokens, give "
                "your task this attribute, or take another datamodule."
            )
        self._geometry = geometry
        self._other_geometry = getattr(task, "other_geometry", None)
        if self._other_geometry is not None and self.images.compared:
            raise ConfigurationError(
                "data.init_args.other and the task's second model both say what the images are compared with. Leave "
                "one of them out."
            )
        rank_zero_info(f"images: {len(self.images):,}")
        for note in self.images.notes:
            rank_zero_info(note)

    @property
    def geometry(self) -> InputGeometry:
        """How pictures become what the task's model takes. Raises ConfigurationError before ``setup``."""
        if self._geometry is None:
            raise ConfigurationError(f"{type(self).__name__} asks the task how to resize images: call setup first.")
        return self._geometry

    def test_dataloader(self) -> DataLoader:
        """``loader.dataset.ids`` are the ids in the order of the rows."""
        dataset = InputImages(self.images, self.geometry, self.on_bad_image, self._other_geometry)
        sampler = UnrepeatedDistributedSampler(dataset)
        # Nothing here draws random numbers, so one seed is as good as another.
        return image_loader(DataLoader, dataset, sampler, dataset.collate, self.batch_size, self.num_workers, seed=0)

    @property
    def labels(self) -> LabelSet:
        """No labels."""
        return LabelSet((), (), ())

    def evaluated_groups(self) -> list[str] | None:
        """Group (patient) of each image; None where the data has no groups."""
        return self.images.groups()

    def data_hash(self, split: str) -> str:
        """SHA-256 over ids, image sizes in the files, and which images have masks."""
        if split != self.eval_split:
            raise ConfigurationError(
                f"{type(self).__name__} has one split, {self.eval_split!r}; asked was for {split!r}."
            )
        if self._hash is None:
            self._hash = self.images.hash()
        return self._hash

    def describe(self) -> dict[str, Any]:
        """What was looked at, in plain types, for a run's summary. After ``setup``."""
        groups = self.evaluated_groups()
        geometry = {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.geometry).items()
        }
        return {
            "images": len(self.images),
            "masks": self.images.with_mask(),
            "compared": self.images.compared,
            "notes": list(self.images.notes),
            "patients": None if groups is None else len(set(groups)),
            "geometry": geometry,
            "on_bad_image": self.on_bad_image,
            "limit": self.limit,
        }


def _plain(paths: str | list[str] | None) -> str | list[str] | None:
    """For hyperparameters: also where Python gave ``pathlib.Path``."""
    if paths is None:
        return None
    return str(paths) if isinstance(paths, str | Path) else [str(path) for path in paths]
