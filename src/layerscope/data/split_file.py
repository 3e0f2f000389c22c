"""The YAML file that says which images belong to train, val and test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from layerscope.data.records import SPLITS, Record
from layerscope.errors import DataError


def read_split_file(split_file: Path, find: Callable[[str, str], Record]) -> dict[str, list[Record]]:
    """The records of each split, in the order of the file.

    ::

        train: ["0001", images/0002.png]
        val: [images/0004.png]
        test: []

    Args:
        split_file: the file; every key may be missing.
        find: called with an entry (id or path) and its place, for messages; gives its record or raises DataError.

    Raises:
        DataError: the file is missing or no YAML, a key is unknown, a value is no list, an image is listed twice.
    """
    try:
        # All scalars stay text: YAML would read the ids 010 and 12_1 as the numbers 8 and 121.
        content = yaml.load(split_file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except FileNotFoundError as error:
        raise DataError(f"The split file {split_file} does not exist; it is relative to {Path.cwd()}.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"The split file {split_file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or not set(content) <= set(SPLITS):
        found = list(content) if isinstance(content, dict) else content
        raise DataError(
            f"The split file {split_file} must have the keys train, val and test, each a list; got {found!r}."
        )
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    seen: dict[str, str] = {}
    for split, entries in content.items():
        if not isinstance(entries, list):
            raise DataError(f"{split_file}: {split} must be a list of ids or paths, got {entries!r}.")
        for place, entry in enumerate(entries, 1):
            where = f"{split_file}, {split}, entry {place}"
            if not isinstance(entry, str):
                raise DataError(f"{where}: expected an id or a path, got {entry!r}.")
            record = find(entry, where)
            if record.id in seen:
                raise DataError(
                    f"{where}: {entry!r} is listed twice, first in {seen[record.id]}. List each image once."
                )
            seen[record.id] = where
            splits[split].append(record)
    return splits
