"""What a pair of images consists of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from layerscope.data.hashing import rows_by_hash
from layerscope.data.images import image_size_in_file
from layerscope.errors import DataError

ONE_PAIR = "one pair"
"""The layout of two images that were named one by one."""


@dataclass(frozen=True)
class PairRecord:
    """The files of one pair, and its group (patient; "" for none).

    negative: None where it is made of the positive, by filling the lesions in. masks: all files of the lesion mask.
    """

    id: str
    positive: Path
    negative: Path | None
    masks: tuple[Path, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class PairRecords:
    """The pairs of a data set, in the order of the rows, and the layout they were found in."""

    records: tuple[PairRecord, ...]
    layout: str

    def __len__(self) -> int:
        return len(self.records)

    def in_hash_order(self, limit: int | None) -> PairRecords:
        """At most ``limit`` pairs, in the order of a hash of their ids.

        Neighbours in a folder are often one patient's, and rows that stand together are compared with one another.
        """
        rows = rows_by_hash([record.id for record in self.records])
        return PairRecords(tuple(self.records[row] for row in rows[:limit]), self.layout)

    def groups(self) -> list[str] | None:
        """The group of each pair, None when the data has none."""
        groups = [record.group for record in self.records]
        return groups if any(groups) else None

    def with_mask(self) -> int:
        """How many pairs have a mask file."""
        return sum(bool(record.masks) for record in self.records)

    def hash(self, fill: str | None) -> str:
        """SHA-256 over the way of filling, ids, image sizes in the files and which pairs have masks; in any order."""
        digest = hashlib.sha256(f"pairs\t{fill}".encode())
        for record in sorted(self.records, key=lambda record: record.id):
            files = [record.positive] if record.negative is None else [record.positive, record.negative]
            sizes = "\t".join(map(size_told, files))
            digest.update(f"\n{record.id}\t{sizes}\t{bool(record.masks)}".encode())
        return digest.hexdigest()


def size_told(path: Path) -> str:
    """Width and height by the header, for a hash; a run itself says what is wrong with a file, or skips it."""
    try:
        width, height = image_size_in_file(path)
    except DataError:
        return "unreadable"
    return f"{width}x{height}"
