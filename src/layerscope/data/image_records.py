"""Images that are looked at one by one, with their masks and with what they are compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from layerscope.data.files import files_by_id
from layerscope.data.named_files import NamedFiles, common_folder, find_named_files
from layerscope.data.pairs.names import all_of, files_by_stem, masks_by_image
from layerscope.data.pairs.records import size_told
from layerscope.data.patients import patient_pattern, patients_of
from layerscope.data.records import plain_id
from layerscope.errors import DataError, listed

Paths = str | list[str]


@dataclass(frozen=True)
class ImageRecord:
    """An image file, the files of its mask, what it is compared with, and its group (patient; "" for none)."""

    id: str
    path: Path
    masks: tuple[Path, ...] = ()
    other: Path | None = None
    group: str = ""


@dataclass(frozen=True)
class ImageRecords:
    """The images of a data set, sorted by id. notes: files that were named and are not used, in words."""

    records: tuple[ImageRecord, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def evenly_spaced(self, limit: int | None) -> ImageRecords:
        """At most ``limit`` images, spread over all and in order."""
        if limit is None or limit >= len(self):
            return self
        rows = np.linspace(0, len(self) - 1, limit).round().astype(int)
        return replace(self, records=tuple(self.records[row] for row in rows))

    def groups(self) -> list[str] | None:
        """The group of each image, None when the data has none."""
        groups = [record.group for record in self.records]
        return groups if any(groups) else None

    def with_mask(self) -> int:
        """How many images have a mask file."""
        return sum(bool(record.masks) for record in self.records)

    @property
    def compared(self) -> bool:
        """Whether the images are compared with others; either all are or none."""
        return any(record.other is not None for record in self.records)

    def hash(self) -> str:
        """SHA-256 over ids, image sizes in the files, and which images have masks."""
        digest = hashlib.sha256(b"images")
        for record in self.records:
            files = [record.path] if record.other is None else [record.path, record.other]
            sizes = "\t".join(map(size_told, files))
            digest.update(f"\n{record.id}\t{sizes}\t{bool(record.masks)}".encode())
        return digest.hexdigest()


def read_image_paths(
    path: Paths, masks: Paths | None = None, other: Paths | None = None, patient: str | None = None
) -> ImageRecords:
    """The images that ``ImagePaths`` documents.

    Raises:
        ConfigurationError: an option names nothing, or ``patient`` is no regular expression with a group.
        DataError: as ``named_files.find_named_files``; a path cannot be an id; no mask has an image, or images have no
            partner (all are listed); or ``patient`` does not name the patient of an image.
    """
    pattern = patient_pattern(patient)
    mask_files = None if masks is None else find_named_files(masks, "data.init_args.masks")
    images = find_named_files(path, "data.init_args.path").without(mask_files)
    if not images.files:
        raise DataError(
            f"Every image of data.init_args.path ({path}) is also one of data.init_args.masks ({masks}), so no image "
            "is left. Name the images in path and their masks in masks."
        )
    by_id = files_by_id(common_folder([file.parent for file in images.files]), images.files, plain_id)
    notes: list[str] = []
    of_masks = {} if mask_files is None else _masks(images, mask_files, notes)
    others = {} if other is None else _others(images, find_named_files(other, "data.init_args.other"), notes)
    groups = dict(zip(images.files, patients_of(images.root, images.files, pattern)))
    records = [
        ImageRecord(name, file, of_masks.get(file, ()), others.get(file), groups[file]) for name, file in by_id.items()
    ]
    return ImageRecords(tuple(sorted(records, key=lambda record: record.id)), tuple(notes))


def _masks(images: NamedFiles, masks: NamedFiles, notes: list[str]) -> Mapping[Path, tuple[Path, ...]]:
    """The mask files of each image; masks of images that were not named are left out, and told in ``notes``."""
    if len(images.files) == 1 and masks.one_by_one:
        return {images.files[0]: masks.files}
    by_stem = files_by_stem(images.root, images.files)
    found, strangers = masks_by_image(masks.root, masks.files, by_stem)
    if not found:
        raise DataError(
            f"None of the {len(strangers)} masks below {masks.root} belongs to an image below {images.root}: "
            f"{all_of(strangers)}. A mask has the name of its image, or that with _mask, _mask_1, ... at its end, in a "
            "folder of the same name: rename them, or leave data.init_args.masks out."
        )
    if strangers:
        notes.append(f"{len(strangers)} masks of no image that was named are left out: {listed(strangers, 5)}")
    return {by_stem[stem]: files for stem, files in found.items()}


def _others(images: NamedFiles, others: NamedFiles, notes: list[str]) -> Mapping[Path, Path]:
    """What each image is compared with; those of images that were not named are left out, and told in ``notes``."""
    if len(images.files) == len(others.files) == 1 and others.one_by_one:
        return {images.files[0]: others.files[0]}
    by_stem = files_by_stem(images.root, images.files)
    other_by_stem = files_by_stem(others.root, others.files)
    if lone := sorted(by_stem.keys() - other_by_stem.keys()):
        raise DataError(
            f"{len(lone)} images below {images.root} have none of the same name (suffix aside) below {others.root} "
            f"(data.init_args.other) to be compared with: {all_of(lone)}. Add or rename these, or take the images out."
        )
    if spare := sorted(other_by_stem.keys() - by_stem.keys()):
        notes.append(
            f"{len(spare)} files of data.init_args.other belong to no image that was named: {listed(spare, 5)}"
        )
    return {file: other_by_stem[stem] for stem, file in by_stem.items()}
