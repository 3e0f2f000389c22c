"""Which images of a plain folder belong to which split, and to which patient."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath

from layerscope.data.files import files_by_id, image_files, relative_stem
from layerscope.data.images import SUFFIXES
from layerscope.data.patients import patient_pattern, patients_of
from layerscope.data.records import SPLITS, DataTable, Record, check_files, check_groups
from layerscope.data.schema import did_you_mean
from layerscope.data.split_file import read_split_file
from layerscope.errors import ConfigurationError, DataError


def read_image_folder(
    root: Path, val_fraction: float | None = None, split_file: Path | None = None, patient: str | None = None
) -> DataTable:
    """The images below ``root``, as ``ImageFolder`` documents it; records have no labels.

    Raises:
        ConfigurationError: ``val_fraction`` is not between 0 and 1, is given along with ``split_file`` or folders named
            like splits, or ``patient`` is no regular expression with a group.
        DataError: a folder cannot be read, there are no images, a path cannot be an id, ``patient`` does not name the
            patient of an image or one is in several splits, or an entry of ``split_file`` is wrong.
    """
    folders = [split for split in SPLITS if (root / split).is_dir()]
    _check_one_way(root, val_fraction, split_file, folders)
    pattern = patient_pattern(patient)
    splits: dict[str, list[Record]]
    if split_file is not None:
        splits = read_split_file(split_file, _finder(root, _records(root, image_files(root)[0], pattern)))
        source, remedy = str(split_file), "List images under it"
    elif val_fraction is not None:
        splits = _by_hash(_records(root, image_files(root)[0], pattern), root, val_fraction)
        what = "images" if pattern is None else "patients"
        source, remedy = f"{root} (val_fraction {val_fraction} of its {what})", "Choose another val_fraction"
    else:
        files = image_files(*(root / split for split in SPLITS))
        records = iter(_records(root, list(chain(*files)), pattern))
        splits = {split: [next(records) for _ in paths] for split, paths in zip(SPLITS, files)}
        source, remedy = str(root), "Put images into the folder of that name"
    check_groups(splits, source)
    check_files(splits)
    return DataTable({split: tuple(records) for split, records in splits.items()}, (), source, remedy)


def _check_one_way(root: Path, val_fraction: float | None, split_file: Path | None, folders: list[str]) -> None:
    if val_fraction is None:
        if split_file is None and not folders:
            raise ConfigurationError(
                f"Nothing says how the images of {root} are split: there is no folder train, val or test in it. Set "
                "data.init_args.val_fraction (such as 0.1) or split_file, or make these folders."
            )
        return
    if not 0 < val_fraction < 1:
        raise ConfigurationError(
            f"data.init_args.val_fraction is {val_fraction}; it must be above 0 and below 1, such as 0.1."
        )
    if split_file is not None:
        raise ConfigurationError(
            "data.init_args has both val_fraction and split_file. Each says which images are val: leave one out."
        )
    if folders:
        raise ConfigurationError(
            f"data.init_args.val_fraction is {val_fraction}, but {root} is split by its folders {', '.join(folders)}, "
            f"whose images would be mixed. Leave val_fraction out, or set root to {root / folders[0]}."
        )


def _records(root: Path, files: Sequence[Path], pattern: re.Pattern[str] | None) -> list[Record]:
    if not files:
        raise DataError(
            f"No images were found below {root}. Correct data.init_args.root; images end in {', '.join(SUFFIXES)}."
        )
    names = files_by_id(root, files)
    patients = patients_of(root, files, pattern)
    return [Record(name, path, group, (), str(path)) for (name, path), group in zip(names.items(), patients)]


def _by_hash(records: Sequence[Record], root: Path, val_fraction: float) -> dict[str, list[Record]]:
    """Without the suffix also where the id keeps it, so that the id that a second file changes moves nothing."""
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for record in records:
        key = f"patient {record.group}" if record.group else f"path {relative_stem(root, record.path)}"
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
        splits["val" if place < val_fraction else "train"].append(record)
    return splits


def _finder(root: Path, records: Sequence[Record]) -> Callable[[str, str], Record]:
    """Finds a record by id or by path relative to root."""
    by_name: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        path = record.path.relative_to(root).as_posix()
        for name in dict.fromkeys((record.id, path, relative_stem(root, record.path))):
            by_name[name].append(record)

    def find(entry: str, where: str) -> Record:
        found = by_name.get(PurePosixPath(entry).as_posix(), [])
        if not found:
            raise DataError(
                f"{where}: {entry!r} is neither an id nor a path of an image below {root}"
                f"{did_you_mean(entry, list(by_name))}. Correct the entry, or take it out."
            )
        if len(found) > 1:
            twins = " and ".join(record.path.relative_to(root).as_posix() for record in found)
            raise DataError(f"{where}: {entry!r} could be {twins}. Write the suffix too.")
        return found[0]

    return find
