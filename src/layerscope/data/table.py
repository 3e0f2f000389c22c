"""Which images, labels and groups belong to which split: from a CSV, a split YAML or one folder per split."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
import yaml
from numpy.typing import NDArray

from layerscope.data.images import SUFFIXES, image_size_in_file
from layerscope.data.schema import UNKNOWN, LabelSchema, did_you_mean
from layerscope.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

_RESERVED = ("id", "path", "split", "group")
_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "": UNKNOWN, "-1": UNKNOWN, "-1.0": UNKNOWN}
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
    """All splits of a data set. ``source`` names the files it was read from."""

    splits: dict[str, tuple[Record, ...]]
    label_names: tuple[str, ...]
    source: str

    def split(self, name: str) -> SplitRecords:
        """One split. Raises DataError when it is empty or one of its image files is missing."""
        if name not in SPLITS:
            raise DataError(f"There is no split {name!r}; the splits are {', '.join(SPLITS)}.")
        records = self.splits.get(name, ())
        if not records:
            counts = ", ".join(f"{split} {len(self.splits.get(split, ()))}" for split in SPLITS)
            raise DataError(
                f"The split {name!r} of {self.source} is empty (images by split: {counts}). Assign images to it, or "
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


def read_data_table(
    root: str | Path, schema: LabelSchema, table: str | Path | None = None, split_file: str | Path | None = None
) -> DataTable:
    """Reads what belongs to which split, in one of three layouts.

    1. ``table`` with a ``split`` column: ``id, path, split, group`` and one column per label. ``path`` is relative to
       ``root``; ``group`` (the patient) may be absent. Labels are 1, 0, and empty or -1 for unknown.
    2. ``split_file``, a YAML file with ``train:``, ``val:`` and ``test:``, each a list of ids or paths. Labels come
       from ``table``; without one every label is unknown and the list holds paths.
    3. Neither a split file nor a ``split`` column: one folder per split under ``root``. The id is the path relative
       to ``root`` without its suffix (``train/left/0001``); labels come from ``table`` by id.

    Raises:
        DataError: names file, row and remedy. Also when a group is in more than one split, or an image file has more
            than one id; files are compared by path, symbolic links are not followed.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"The data directory root={root} does not exist. Correct `root`; it is relative to {Path.cwd()}."
        )
    names = schema.label_set().names
    rows = None if table is None else _Rows(Path(table), schema)
    if split_file is not None:
        splits = _from_split_file(root, Path(split_file), rows, len(names))
        source = str(split_file)
    elif rows is not None and "split" in rows.header:
        splits = rows.by_split(root)
        source = str(table)
    else:
        splits = _from_folders(root, rows, len(names))
        source = str(root)
    _check_groups(splits, source)
    _check_files(splits)
    return DataTable({split: tuple(records) for split, records in splits.items()}, names, source)


class _Rows:
    """The rows of a table, each checked."""

    def __init__(self, path: Path, schema: LabelSchema) -> None:
        self.path = path
        self.header, cells = _read_csv(path)
        self._check_header(schema)
        self.has_group = "group" in self.header
        # id -> (row number, cells by column, labels)
        self.rows: dict[str, tuple[int, dict[str, str], tuple[int, ...]]] = {}
        for number, row in cells:
            where = f"{path}, row {number}"
            name = row["id"]
            _check_id(name, where)
            if name in self.rows:
                raise DataError(
                    f"{where}: the id {name!r} is already used in row {self.rows[name][0]}. "
                    "Each image needs its own id."
                )
            if self.has_group and not row["group"]:
                raise DataError(
                    f"{where}: the group of {name!r} is empty. Fill in the patient of every image (its own id if it "
                    "is the only one), or take the whole column out."
                )
            values = {column: _value(row[column], column, where) for column in schema.columns}
            labels = tuple(label.merge([values[column] for column in label.columns]) for label in schema.labels)
            self.rows[name] = (number, row, labels)

    def _check_header(self, schema: LabelSchema) -> None:
        header = self.header
        for wanted in _RESERVED:
            if wanted not in header:
                twins = [column for column in header if column.strip().lower().rstrip("s") == wanted]
                if twins:
                    raise DataError(
                        f"The table {self.path} has the unknown column {twins[0]!r}; rename it to {wanted!r}."
                    )
        if "split" in header and "path" not in header:
            raise DataError(
                f"The table {self.path} has a column 'split' but no column 'path'; its columns are "
                f"{', '.join(header)}. Add each image's path, relative to root."
            )
        schema.check_columns(header, str(self.path))

    def record(self, name: str, path: Path) -> Record:
        number, row, labels = self.rows[name]
        return Record(name, path, row["group"] if self.has_group else "", labels, f"{self.path}, row {number}")

    def file(self, root: Path, name: str) -> Path:
        number, row, _ = self.rows[name]
        if not row.get("path"):
            raise DataError(
                f"{self.path}, row {number}: the path of {name!r} is empty. Give the image's path, relative to root."
            )
        return root / row["path"]

    def by_split(self, root: Path) -> dict[str, list[Record]]:
        splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
        for name, (number, row, _) in self.rows.items():
            if row["split"] not in splits:
                raise DataError(
                    f"{self.path}, row {number}: the split of {name!r} is {row['split']!r}"
                    f"{did_you_mean(row['split'], SPLITS)}. Write train, val or test."
                )
            splits[row["split"]].append(self.record(name, self.file(root, name)))
        return splits


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header and each row with its number as a text editor counts, the header being row 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except FileNotFoundError as error:
        raise DataError(f"The table {path} does not exist. Correct `table`; it is relative to {Path.cwd()}.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The table {path} cannot be read as CSV in UTF-8: {error}.") from error
    if not lines:
        raise DataError(f"The table {path} is empty. Its first row must name the columns: id, path, split, ...")
    header = lines[0][1]
    for column in header:
        if not column or header.count(column) > 1:
            raise DataError(f"The table {path} has the column {column!r} {header.count(column)} times. Name each once.")
    if "id" not in header:
        hint = " It seems to be separated by semicolons; save it with commas." if ";" in "".join(header) else ""
        raise DataError(
            f"The table {path} has no column 'id'; its columns are {', '.join(header)}.{hint} The first row must name "
            "the columns: id, path, split, group (optional) and one per label."
        )
    for number, row in lines[1:]:
        if len(row) != len(header):
            raise DataError(
                f"{path}, row {number}: {len(row)} cells, but the header names {len(header)} columns. Put cells that "
                "contain commas in double quotes."
            )
    return header, [(number, dict(zip(header, row))) for number, row in lines[1:]]


def _value(cell: str, column: str, where: str) -> int:
    if cell not in _VALUES:
        raise DataError(
            f"{where}: the label column {column!r} holds {cell!r}. Labels are 1 (present), 0 (absent), and empty or -1 "
            "(unknown); a graded label needs one column per threshold."
        )
    return _VALUES[cell]


def _check_id(name: str, where: str) -> None:
    """Ids become file names and parts of an HTML page."""
    remedy = "Use letters, digits, and . _ - / within it."
    if not name or len(name) > _MAX_ID_LENGTH:
        raise DataError(f"{where}: the id has {len(name)} characters, expected 1 to {_MAX_ID_LENGTH}. {remedy}")
    bad = sorted({character for character in name if character in "<>\"'&\\" or not character.isprintable()})
    if bad:
        raise DataError(f"{where}: the id {name!r} contains {bad}. {remedy}")
    if PurePosixPath(name).is_absolute() or ":" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise DataError(f"{where}: the id {name!r} looks like a path that leaves its directory. {remedy}")


def _from_split_file(root: Path, split_file: Path, rows: _Rows | None, labels: int) -> dict[str, list[Record]]:
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
    by_path: dict[str, list[str]] = defaultdict(list)
    if rows is not None:
        for name, (_, row, _) in rows.rows.items():
            by_path[row.get("path", "")].append(name)
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    seen: dict[str, str] = {}
    for split, entries in content.items():
        if not isinstance(entries, list):
            raise DataError(f"{split_file}: {split} must be a list of ids or paths, got {entries!r}.")
        for place, entry in enumerate(entries, 1):
            where = f"{split_file}, {split}, entry {place}"
            if not isinstance(entry, str):
                raise DataError(f"{where}: expected an id or a path, got {entry!r}.")
            if rows is None:
                name = str(PurePosixPath(entry).with_suffix(""))
                _check_id(name, where)
                record = Record(name, root / entry, "", (UNKNOWN,) * labels, where)
            else:
                names = [entry] if entry in rows.rows else by_path.get(entry, [])
                if not names:
                    near = did_you_mean(entry, list(rows.rows))
                    raise DataError(f"{where}: {entry!r} is neither an id nor a path of {rows.path}{near}.")
                if len(names) > 1:
                    twins = " and ".join(f"{name!r} (row {rows.rows[name][0]})" for name in names[:2])
                    raise DataError(
                        f"{where}: the path {entry!r} belongs to more than one id of {rows.path}: {twins}. Correct the "
                        "path of the wrong row, or take the row out."
                    )
                name = names[0]
                record = rows.record(name, rows.file(root, name))
            if name in seen:
                raise DataError(f"{where}: {entry!r} is listed twice, first in {seen[name]}. List each image once.")
            seen[name] = where
            splits[split].append(record)
    return splits


def _from_folders(root: Path, rows: _Rows | None, labels: int) -> dict[str, list[Record]]:
    splits = {split: _folder(root, split) for split in SPLITS}
    if not any(splits.values()):
        raise DataError(
            f"No images were found in {root}/train, {root}/val or {root}/test, and no table with a column 'split' "
            f"and no split_file was given. Add one of the three; images end in {', '.join(SUFFIXES)}."
        )
    found: dict[str, list[Record]] = {}
    seen: dict[str, Path] = {}
    for split, files in splits.items():
        found[split] = []
        for path in files:
            name = path.relative_to(root).with_suffix("").as_posix()
            _check_id(name, str(path))
            if name in seen:
                raise DataError(f"{path} and {seen[name]} both get the id {name!r}. Rename one of them.")
            seen[name] = path
            if rows is None:
                found[split].append(Record(name, path, "", (UNKNOWN,) * labels, str(path)))
            elif name in rows.rows:
                found[split].append(rows.record(name, path))
            else:
                raise DataError(
                    f"{path}: its id {name!r} is not in {rows.path}{did_you_mean(name, list(rows.rows))}. The id "
                    "is the path relative to root without the suffix; add a row, with empty labels if they are unknown."
                )
    if rows is not None and (missing := [name for name in rows.rows if name not in seen]):
        number = rows.rows[missing[0]][0]
        more = f" (and {len(missing) - 1} more)" * (len(missing) > 1)
        raise DataError(
            f"{rows.path}, row {number}: the id {missing[0]!r}{more} has no image file in {root}/train, val or test. "
            f"The id is the path relative to root without the suffix, and files end in {', '.join(SUFFIXES)}. Add or "
            "convert the file, or take the row out."
        )
    return found


def _folder(root: Path, split: str) -> list[Path]:
    return sorted(path for path in (root / split).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _check_groups(splits: dict[str, list[Record]], source: str) -> None:
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


def _check_files(splits: dict[str, list[Record]]) -> None:
    """One image under two ids counts twice, and across splits the models have seen what they are judged on.

    By path alone: following links would ask the file system about every part of every path.
    """
    seen: dict[str, tuple[str, Record]] = {}
    twins: list[tuple[tuple[str, Record], tuple[str, Record]]] = []
    for split, records in splits.items():
        for record in records:
            first = seen.setdefault(os.path.normpath(record.path), (split, record))
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
