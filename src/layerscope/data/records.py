"""The images of each split, and what must hold of them however they were listed."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from layerscope.data.images import image_size_in_file
from layerscope.data.schema import UNKNOWN
from layerscope.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

_MAX_ID_LENGTH = 200


@dataclass(frozen=True)
class Record:
    """One image: its id, file, group ("" for none), labels in {1, 0, -1}, and where it was listed, for messages."""

    id: str
    path: Path
    group: str
    labels: tuple[int, ...]
    origin: str


@dataclass(frozen=True)
class SplitRecords:
    """The records of one split, in order, each image file checked to exist."""

    split: str
    records: tuple[Record, ...]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.records)

    def target(self) -> NDArray[np.float32]:
        """(N, L) in {0, 1}; 0 where unknown."""
        return (self._labels() == 1).astype(np.float32)

    def known(self) -> NDArray[np.bool_]:
        """(N, L)."""
        return self._labels() != UNKNOWN

    def groups(self) -> list[str] | None:
        """The group of each record, None when the data has none."""
        groups = [record.group for record in self.records]
        return groups if any(groups) else None

    def evenly_spaced(self, limit: int | None) -> SplitRecords:
        """At most ``limit`` records, spread over the split and in order."""
        if limit is None or limit >= len(self):
            return self
        rows = np.linspace(0, len(self) - 1, limit).round().astype(int)
        return replace(self, records=tuple(self.records[row] for row in rows))

    def hash(self) -> str:
        """SHA-256 over ids, image sizes in pixels and labels; the order of the records does not matter."""
        digest = hashlib.sha256("\t".join(self.label_names).encode())
        for record in sorted(self.records, key=lambda record: record.id):
            width, height = image_size_in_file(record.path)
            digest.update(f"\n{record.id}\t{width}x{height}\t{','.join(map(str, record.labels))}".encode())
        return digest.hexdigest()

    def _labels(self) -> NDArray[np.int64]:
        return np.array([record.labels for record in self.records], dtype=np.int64).reshape(len(self), -1)


@dataclass(frozen=True)
class DataTable:
    """All splits of a data set. ``source`` names the files it was read from; ``remedy`` says how to fill a split."""

    splits: dict[str, tuple[Record, ...]]
    label_names: tuple[str, ...]
    source: str
    remedy: str = "Assign images to it"

    def split(self, name: str) -> SplitRecords:
        """One split. Raises DataError when it is empty or one of its image files is missing."""
        if name not in SPLITS:
            raise DataError(f"There is no split {name!r}; the splits are {', '.join(SPLITS)}.")
        records = self.splits.get(name, ())
        if not records:
            counts = ", ".join(f"{split} {len(self.splits.get(split, ()))}" for split in SPLITS)
            raise DataError(
                f"The split {name!r} of {self.source} is empty (images by split: {counts}). {self.remedy}, or "
                "choose another eval_split."
            )
        missing = [record for record in records if not record.path.is_file()]
        if missing:
            first = missing[0]
            raise DataError(
                f"{first.origin}: the image file {first.path} of id {first.id!r} does not exist"
                + (f" ({len(missing)} of {len(records)} files of the split {name!r} are missing)" * (len(missing) > 1))
                + ". Correct the path, or `root`, which relative paths start from."
            )
        return SplitRecords(name, records, self.label_names)


def plain_id(name: str) -> str:
    """A path with ``_`` in place of each character that an id must not hold.

    >>> plain_id("scans/10:30 of O'Neil")
    'scans/10_30 of O_Neil'
    """
    return "".join("_" if character == ":" or _is_refused(character) else character for character in name)


def check_id(name: str, where: str) -> None:
    """Ids become file names and parts of an HTML page."""
    remedy = "Use letters, digits, and . _ - / within it."
    if not name or len(name) > _MAX_ID_LENGTH:
        raise DataError(f"{where}: the id has {len(name)} characters, expected 1 to {_MAX_ID_LENGTH}. {remedy}")
    bad = sorted({character for character in name if _is_refused(character)})
    if bad:
        raise DataError(f"{where}: the id {name!r} contains {bad}. {remedy}")
    if PurePosixPath(name).is_absolute() or ":" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise DataError(f"{where}: the id {name!r} looks like a path that leaves its directory. {remedy}")


def _is_refused(character: str) -> bool:
    return character in "<>\"'&\\" or not character.isprintable()


def check_groups(splits: dict[str, list[Record]], source: str) -> None:
    places: dict[str, dict[str, Record]] = defaultdict(dict)
    for split, records in splits.items():
        for record in records:
            if record.group:
                places[record.group].setdefault(split, record)
    crossing = {group: found for group, found in places.items() if len(found) > 1}
    if crossing:
        are = "group (patient) of {} is" if len(crossing) == 1 else "groups (patients) of {} are"
        raise DataError(
            f"{len(crossing)} {are.format(source)} in more than one split: {_listed(crossing)}. Images of one patient "
            "must stay together, or the judgement is too favourable: move them into one split."
        )


def check_files(splits: dict[str, list[Record]]) -> None:
    """One image under two ids counts twice, and across splits the models have seen what they are judged on.

    By path alone: following links would ask the file system about every part of every path.
    """
    seen: dict[str, tuple[str, Record]] = {}
    twins: list[tuple[tuple[str, Record], tuple[str, Record]]] = []
    for split, records in splits.items():
        for record in records:
            first = seen.setdefault(os.path.abspath(record.path), (split, record))
            if first[1] is not record:
                twins.append((first, (split, record)))
    if twins:
        (split, one), (other_split, other) = twins[0]
        more = f" ({len(twins)} ids name a file that another id names)" * (len(twins) > 1)
        raise DataError(
            f"{other.origin}: the image file {other.path} of id {other.id!r} ({other_split}) is also that of id "
            f"{one.id!r} ({split}; {one.origin}){more}. Each image counts once, in one split: correct the path of the "
            "wrong one, or take it out."
        )


def _listed(crossing: Mapping[str, Mapping[str, Record]], limit: int = 10) -> str:
    """Each group with the first image of it in each split: ``p007 (train: a_left, test: a_right)``."""
    named = [
        f"{group} ({', '.join(f'{split}: {record.id}' for split, record in found.items())})"
        for group, found in crossing.items()
    ]
    return "; ".join(named[:limit]) + (f"; and {len(named) - limit} more" if len(named) > limit else "")
